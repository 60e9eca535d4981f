"""Fine-tunes encoder–decoder models on pairs of prompt and completion, with transformers' Trainer.

trl's SFTTrainer knows decoders only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.errors import TrainingError
from evalkit.records import Corpus
from evalkit.suite import TrainingSpec
from evalkit.weights.quantization import quantized_layers

if TYPE_CHECKING:
    import datasets
    from peft import LoraConfig
    from transformers import PreTrainedTokenizerBase, Trainer
    from trl import SFTConfig


def pairs_dataset(
    name: str, corpus: Corpus, training: TrainingSpec, tokenizer: PreTrainedTokenizerBase
) -> datasets.Dataset:
    """The pairs as tokens: `input_ids` and `labels`, each cut at `max_length`.

    Raises:
        TrainingError: there are none, one has no prompt, or packing is asked for.
    """
    import datasets

    if training.packing:
        raise TrainingError(f"{name}: packing: pairs of an encoder–decoder model are not packed")
    if not corpus.documents:
        raise TrainingError(f"{name}: {corpus.origin} has no documents to train on")
    datasets.disable_progress_bars()
    rows = []
    for document in corpus.documents:
        if document.prompt is None:
            raise TrainingError(
                f"{name}: an encoder–decoder model is trained on pairs, and document {document.id} "
                "has no prompt: give the data's columns 'prompt' and 'completion'"
            )
        cut: dict[str, Any] = {"truncation": True, "max_length": training.max_length}
        source = tokenizer(document.prompt, **cut)
        labels = tokenizer(text_target=document.text, **cut)["input_ids"]
        rows.append({"input_ids": source["input_ids"], "labels": labels})
    return datasets.Dataset.from_list(rows)


def pairs_trainer(
    model: Any,
    args: SFTConfig,
    documents: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    peft_config: LoraConfig | None,
) -> Trainer:
    """A trainer of an adapter, or of every weight where there is no `peft_config`."""
    from peft import get_peft_model, prepare_model_for_kbit_training
    from transformers import DataCollatorForSeq2Seq, Trainer

    if peft_config is not None:
        if quantized_layers(model):
            model = prepare_model_for_kbit_training(
                model, use_gradient_checkpointing=args.gradient_checkpointing
            )
        model = get_peft_model(model, peft_config)
    args.include_num_input_tokens_seen = "all"
    collator = DataCollatorForSeq2Seq(tokenizer, model=model)
    return Trainer(
        model=model,
        args=args,
        train_dataset=documents,
        processing_class=tokenizer,
        data_collator=collator,
    )
