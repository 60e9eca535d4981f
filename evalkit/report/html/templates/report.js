"use strict";
// What the page does beyond standing there: sorting, another reference, tokens. Everything that is
// shown is made with textContent, so no text of a suite, a document or a model can become markup.
(() => {
  const data = id => {
    const holder = document.getElementById(id);
    return holder ? JSON.parse(holder.textContent) : null;
  };
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  // Paper shows what is folded away on a screen.
  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
  });

  // ------------------------------------------------------------------ variants by metrics

  const values = data("values-data");
  if (values) {
    const table = document.getElementById("values");
    const body = table.tBodies[0];
    const suiteOrder = [...body.rows];
    const heads = [...table.tHead.rows[0].cells].filter(head => head.dataset.column !== undefined);
    const controls = document.querySelector('.controls[data-for="values"]');
    const reference = controls.querySelector('[data-pick="reference"]');
    const order = controls.querySelector('[data-pick="order"]');
    const said = make("p", "hidden");
    said.setAttribute("aria-live", "polite");
    controls.append(said);
    controls.hidden = false;
    let sorted = { column: "", rising: true };

    const cellOf = (row, column) => row.cells[Number(column) + 2];
    const compareWith = picked => {
      for (const row of suiteOrder) {
        const own = Number(row.dataset.row);
        row.querySelector(".tag.reference").hidden = own !== picked;
        values.forEach((column, at) => {
          cellOf(row, at).querySelector(".change").textContent =
            own === picked ? "" : column.changes[picked][own];
        });
      }
    };
    const sortBy = (column, rising) => {
      sorted = { column, rising };
      order.value = column;
      const rows = [...suiteOrder];
      if (column !== "") {
        const key = row => cellOf(row, column).dataset.order;
        rows.sort((a, b) => {
          const [one, other] = [key(a), key(b)];
          if (one === undefined || other === undefined) {
            return (one === undefined) - (other === undefined);
          }
          return rising ? one - other : other - one;
        });
      }
      body.append(...rows);
      for (const head of heads) {
        const own = head.dataset.column === column;
        if (own) head.setAttribute("aria-sort", rising ? "ascending" : "descending");
        else head.removeAttribute("aria-sort");
      }
      said.textContent = column === "" ? "In the suite's order" :
        `Sorted by ${values[column].title}, ${rising ? "lowest" : "highest"} first`;
    };
    const bestFirst = column => !values[column].higherIsBetter;

    for (const head of heads) {
      const button = make("button", "sort");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const column = head.dataset.column;
        const again = sorted.column === column;
        // The best first, then the worst first, then as the suite has it.
        if (!again) sortBy(column, bestFirst(column));
        else if (sorted.rising === bestFirst(column)) sortBy(column, !sorted.rising);
        else sortBy("", true);
      });
    }
    reference.addEventListener("change", () => compareWith(Number(reference.value)));
    order.addEventListener("change", () =>
      sortBy(order.value, order.value === "" || bestFirst(order.value)));
    // A browser may keep what was picked when the page is loaded again.
    compareWith(Number(reference.value));
    sortBy(order.value, order.value === "" || bestFirst(order.value));
  }

  // ------------------------------------------------------------------------- token by token

  const tokens = data("tokens-data");
  if (tokens) {
    const view = document.getElementById("token-view");
    const [from, to] = ["from", "to"].map(key => view.querySelector(`[data-pick="${key}"]`));
    const list = view.querySelector(".documents");
    const text = view.querySelector(".tokens");
    const tip = view.querySelector(".tip");
    const said = view.querySelector('[data-say="token"]');
    const left = view.querySelector('[data-say="left"]');
    const minus = number => number.replace("-", "\u2212");
    const signed = (value, digits) => (value > 0 ? "+" : "") + minus(value.toFixed(digits));
    const share = p => p >= 0.0995 ? `${(100 * p).toFixed(0)} %` :
      p >= 0.001 ? `${(100 * p).toFixed(1)} %` : "< 0.1 %";
    const visible = piece => JSON.stringify(piece).slice(1, -1).replaceAll('\\"', '"')
      .replaceAll(" ", "\u2423");
    const level = nats => {
      const size = [0.1, 0.3, 1, 2, 4].filter(step => Math.abs(nats) >= step).length;
      return size ? ` ${nats > 0 ? "b" : "g"}${size}` : "";
    };
    const movesOf = doc => {
      const [old, now] = [from, to].map(pick => doc.variants[pick.value].loss);
      return now.map((loss, at) => (loss - old[at]) / 1000);
    };
    let shown = null;
    let current = -1;

    const tipLine = (name, variant, at) => {
      const row = make("div", "tip-row");
      row.append(make("bdi", "name", name), make("span", "", `gave it ${share(Math.exp(-variant.loss[at] / 1000))}`));
      const top = make("span", "muted");
      if (variant.top) {
        top.append("found likeliest ", make("bdi", "piece", visible(tokens.pieces[variant.top[at]])),
          ` ${share(variant.p[at] / 10000)}`);
      }
      row.append(top);
      return row;
    };
    const hide = () => {
      tip.hidden = true;
      if (current >= 0 && text.children[current]) text.children[current].classList.remove("current");
      current = -1;
    };
    const point = (at, speak) => {
      hide();
      const token = text.children[at];
      if (!token) return;
      current = at;
      token.classList.add("current");
      const change = movesOf(shown)[at];
      const head = make("div", "tip-head");
      head.append(make("bdi", "piece", visible(shown.tokens[at])),
        make("span", change > 0 ? "bad" : "good", `${signed(change, 2)} nats`));
      tip.replaceChildren(head,
        ...[from, to].map(pick => tipLine(tokens.variants[pick.value], shown.variants[pick.value], at)));
      tip.hidden = false;
      const [box, frame] = [token.getClientRects()[0], view.getBoundingClientRect()];
      const room = Math.max(0, frame.width - tip.offsetWidth);
      tip.style.left = `${Math.min(Math.max(0, box.left - frame.left), room)}px`;
      tip.style.top = `${box.bottom - frame.top + 6}px`;
      if (speak) said.textContent = tip.innerText.replaceAll("\n", ", ");
    };
    const draw = doc => {
      hide();
      shown = doc;
      const moves = movesOf(doc);
      text.replaceChildren(...doc.tokens.map((token, at) => {
        const span = make("span", `t${level(moves[at])}`, token);
        span.dataset.at = at;
        return span;
      }));
      text.scrollTop = 0;
      const more = doc.left ? `; ${doc.left.toLocaleString("en")} more tokens are not shown` : "";
      left.textContent = `${doc.id}, ${doc.tokens.length} tokens${more}`;
      for (const button of list.querySelectorAll("button")) {
        button.setAttribute("aria-pressed", button.dataset.id === doc.key ? "true" : "false");
      }
    };
    const rank = keep => {
      const rows = tokens.documents.map(doc => {
        const moves = movesOf(doc);
        return { doc, mean: moves.reduce((sum, value) => sum + value, 0) / Math.max(1, moves.length) };
      });
      rows.sort((a, b) => Math.abs(b.mean) - Math.abs(a.mean));
      const widest = Math.max(...rows.map(row => Math.abs(row.mean)), 1e-9);
      list.replaceChildren(...rows.map(({ doc, mean }) => {
        const button = make("button");
        button.type = "button";
        button.dataset.id = doc.key;
        const bar = make("i", mean > 0 ? "bar worse" : "bar better");
        bar.style.width = `${100 * Math.abs(mean) / widest}%`;
        button.title = doc.id;
        button.append(make("bdi", "", doc.title), make("span", mean > 0 ? "bad" : "good",
          signed(mean, 3)), bar);
        button.addEventListener("click", () => draw(doc));
        const item = make("li");
        item.append(button);
        return item;
      }));
      draw(keep && shown ? shown : rows[0].doc);
    };

    tokens.documents.forEach((doc, at) => {
      doc.key = String(at);
      // Names of documents are often digests: how one begins says more.
      doc.title = doc.tokens.join("").replace(/\s+/g, " ").trim().slice(0, 60) || doc.id;
    });
    for (const [pick, chosen] of [[from, tokens.pair[0]], [to, tokens.pair[1]]]) {
      tokens.variants.forEach((name, at) => {
        const option = make("option", "", name);
        option.value = at;
        option.selected = at === chosen;
        pick.append(option);
      });
      pick.addEventListener("change", () => rank(true));
    }
    text.addEventListener("pointerover", event => {
      if (event.target.dataset.at !== undefined) point(Number(event.target.dataset.at), false);
    });
    text.addEventListener("pointerleave", hide);
    text.addEventListener("click", event => {
      if (event.target.dataset.at !== undefined) point(Number(event.target.dataset.at), true);
    });
    text.addEventListener("keydown", event => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      point(Math.min(Math.max(0, current + step), shown.tokens.length - 1), true);
      if (current >= 0) text.children[current].scrollIntoView({ block: "nearest" });
    });
    document.querySelector('[data-without="script"]').hidden = true;
    view.hidden = false;
    rank(false);
  }
})();
