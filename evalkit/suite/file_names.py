"""The files that a suite names, made absolute: each is relative to the layer that wrote it."""

from __future__ import annotations

import dataclasses
import os

from evalkit.suite.located import Node

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")


def is_local(name: object) -> bool:
    """Whether a name is written as a path on this machine: it starts with `.`, `/` or `~`."""
    return isinstance(name, str) and name.startswith((".", "/", "~"))


def is_data_file(name: object) -> bool:
    """Whether a data set's name is a file: it is written as a path, or ends as data files do."""
    if not isinstance(name, str) or name.startswith("builtin:"):
        return False
    return is_local(name) or name.lower().endswith(DATA_SUFFIXES)


def absolute_paths(root: Node) -> Node:
    """Make every file that the suite names absolute, relative to the layer that wrote it."""
    if not isinstance(root.value, dict):
        return root
    value = dict(root.value)
    if (model := root.at("model")) is not None:
        value["model"] = _absolute(model, "source", data=False)
    for section, key in (("data", "dataset"), ("adapters", "from")):
        below = root.at(section)
        if below is not None and isinstance(below.value, dict):
            entries = {
                name: _absolute(node, key, data=section == "data")
                for name, node in below.value.items()
            }
            value[section] = dataclasses.replace(below, value=entries)
    if (tasks := root.at("tasks")) is not None:
        value["tasks"] = _absolute_tasks(tasks)
    return dataclasses.replace(root, value=value)


def _absolute_tasks(tasks: Node) -> Node:
    """The same of tasks: a folder of definitions and files of samples are always local."""
    if isinstance(tasks.value, list):
        entries = [_absolute_task(node) for node in tasks.value]
        return dataclasses.replace(tasks, value=entries)
    if isinstance(tasks.value, dict):
        named = {name: _absolute_task(node) for name, node in tasks.value.items()}
        return dataclasses.replace(tasks, value=named)
    return tasks


def _absolute_task(node: Node) -> Node:
    if not isinstance(node.value, dict):
        return node
    value = {
        key: _in_folder(below) if key in ("include_path", "data") else below
        for key, below in node.value.items()
    }
    return dataclasses.replace(node, value=value)


def _in_folder(node: Node) -> Node:
    if isinstance(node.value, dict):
        below = {key: _in_folder(file) for key, file in node.value.items()}
        return dataclasses.replace(node, value=below)
    if not isinstance(node.value, str) or not node.value:
        return node
    absolute = os.path.normpath(node.folder / os.path.expanduser(node.value))  # noqa: PTH111
    return dataclasses.replace(node, value=absolute)


def _absolute(node: Node, key: str, *, data: bool) -> Node:
    if isinstance(node.value, dict) and key in node.value:
        leaf = _absolute(node.value[key], "", data=data)
        return dataclasses.replace(node, value={**node.value, key: leaf})
    name = node.value
    if not isinstance(name, str) or not (is_data_file(name) if data else is_local(name)):
        return node
    absolute = os.path.normpath(node.folder / os.path.expanduser(name))  # noqa: PTH111
    return dataclasses.replace(node, value=absolute)
