"use strict";
// The clusters of a recipe become an editor: a field for every name, keys, completion, progress. Names are text, never HTML.
(() => {
  const { Naming, RESERVED, tidy } = maskmill;
  const OFFERED = 8; // names

  /** An element: {class, text, on: {event: listener}, ...attributes}, children. */
  function make(tag, { class: style = "", text, on = {}, ...attributes } = {}, ...children) {
    const node = document.createElement(tag);
    if (style) node.className = style;
    if (text !== undefined) node.textContent = text;
    for (const [name, value] of Object.entries(attributes)) if (value !== false && value !== null) node.setAttribute(name, value === true ? "" : value);
    for (const [name, listener] of Object.entries(on)) node.addEventListener(name, listener);
    node.append(...children);
    return node;
  }

  const button = (text, press, more = {}) => make("button", { type: "button", text, on: { click: press }, ...more });
  const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)} %`;
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;

  // --- completion: one list for all fields -------------------------------------------------------------------------------
  const offer = make("ul", { class: "offer", id: "offer", role: "listbox", "aria-label": "Names that exist", hidden: true });
  const choice = { field: null, at: -1, typed: "" };

  function suggest(field, names) {
    const text = tidy(field.value).toLowerCase();
    const rank = (name) => { const low = name.toLowerCase(); return name === tidy(field.value) ? 3 : low.startsWith(text) ? 0 : low.includes(text) ? 1 : 3; };
    const fits = [...names, ...RESERVED].map((name) => [rank(name), name]).filter(([r]) => r < 3).sort((a, b) => a[0] - b[0]);
    Object.assign(choice, { field, at: -1, typed: field.value });
    offer.replaceChildren(...fits.slice(0, OFFERED).map(([, name], i) => make("li", { role: "option", id: `offer-${i}`, text: name })));
    offer.hidden = !fits.length;
    field.setAttribute("aria-expanded", String(!offer.hidden));
    field.removeAttribute("aria-activedescendant");
    const area = field.getBoundingClientRect();
    Object.assign(offer.style, { left: `${area.left + scrollX}px`, top: `${area.bottom + scrollY + 3}px`, minWidth: `${area.width}px` });
  }

  function pick(by) {
    const items = [...offer.children];
    if (offer.hidden || !items.length) return;
    choice.at = (choice.at + by + items.length + 1 + (choice.at < 0 && by < 0 ? 1 : 0)) % (items.length + 1);
    if (choice.at === items.length) choice.at = -1;
    items.forEach((item, i) => item.setAttribute("aria-selected", String(i === choice.at)));
    choice.field.value = choice.at < 0 ? choice.typed : items[choice.at].textContent;
    if (choice.at < 0) choice.field.removeAttribute("aria-activedescendant");
    else choice.field.setAttribute("aria-activedescendant", `offer-${choice.at}`);
  }

  function withdraw() {
    offer.hidden = true;
    if (choice.field) choice.field.setAttribute("aria-expanded", "false");
  }

  // --- one recipe ----------------------------------------------------------------------------------------------------------
  class Desk {
    constructor(article, data) {
      const { recipe, seed, codebook } = data;
      const shares = new Map(data.clusters.map(([cluster, share]) => [cluster, share]));
      const about = { recipe, seed, codebook, shares, clusters: new Set(Array.from({ length: data.total }, (_, i) => i + 1)) };
      Object.assign(this, { article, data, recipe, show: "all", text: "", last: "" });
      let trouble = "";
      try {
        this.naming = new Naming(about, data.taxonomy, data.members || "");
      } catch (error) {
        this.naming = new Naming(about, null, data.members || "");
        trouble = error.message;
      }
      this.rows = new Map([...article.querySelectorAll(".cluster")].map((li) => [Number(li.dataset.cluster), { li, cluster: Number(li.dataset.cluster), seen: "" }]));
      this.near = new Map(data.clusters.map(([cluster, , near]) => [cluster, near]));
      this.bar();
      for (const row of this.rows.values()) this.equip(row);
      this.naming.watch(() => { this.keep(); this.refresh(); });
      this.recall();
      this.refresh();
      if (trouble) this.say(trouble, true);
      const first = this.shown()[0];
      if (first) this.select(first, false);
    }

    // --- state in this browser -------------------------------------------------------------------------------------------
    get slot() { return `maskmill taxonomy ${this.data.codebook} ${this.recipe}`; }

    keep() {
      try {
        localStorage.setItem(this.slot, JSON.stringify({ base: this.data.taxonomy || "", text: this.naming.text() }));
      } catch (error) {
        this.say("This browser keeps nothing for this page: save the file before you close it.", true);
      }
    }

    recall() {
      let kept = null;
      try {
        kept = JSON.parse(localStorage.getItem(this.slot));
        if (!kept || kept.text === this.naming.text()) return;
        const doc = this.naming.parse(kept.text, "what this browser kept");
        if (kept.base === (this.data.taxonomy || "") || this.naming.becomes(doc)) {
          this.naming.doc = doc;
          this.say("Continued where you left off in this browser.");
        } else {
          this.naming.back.push(doc);
          this.say("The names of this run are shown. What you had typed before it is one undo away.");
        }
      } catch (error) {
        if (kept) this.say(`Nothing was taken over from an earlier visit: ${error.message}`, true);
      }
    }

    // --- the bar ---------------------------------------------------------------------------------------------------------
    bar() {
      this.progress = make("output", { class: "progress" });
      this.meter = make("div", { class: "done", "aria-hidden": "true" });
      this.said = make("output", { class: "said", "aria-live": "polite" });
      this.undo = button("Undo", () => this.travel("undo"), { title: "u, Ctrl Z" });
      this.redo = button("Redo", () => this.travel("redo"), { title: "r, Ctrl Y" });
      this.file = make("input", { type: "file", accept: ".yaml,.yml", hidden: true, on: { change: () => this.load(this.file.files[0]) } });
      this.find = make("input", { type: "search", placeholder: "number or name", "aria-label": "Find clusters", autocomplete: "off", spellcheck: "false",
        on: {
          input: () => { this.text = this.find.value.trim().toLowerCase(); this.filter(); if (this.shown()[0]) this.reveal(this.shown()[0]); },
          keydown: (event) => {
            if (event.key !== "Enter" && event.key !== "Escape") return;
            event.preventDefault();
            event.stopPropagation();
            if (event.key === "Escape") { this.find.value = this.text = ""; this.filter(); }
            if (this.current) this.select(this.current);
          },
        } });
      this.open = button("Without name", () => this.toggleOpen(), { "aria-pressed": "false", title: "f" });
      const telling = button("Name next", () => this.telling(), { title: "t: the cluster whose name tells most" });
      const tools = make("div", { class: "acts" }, this.find, this.open, ...(this.data.influences.length ? [telling] : []), this.undo, this.redo,
        button("Load", () => this.file.click(), { title: "l, or drop a file here" }),
        button("Save taxonomy.yaml", () => this.save(), { class: "main", title: "w, Ctrl S" }),
        button("Keys", () => maskmill.help(), { title: "?" }), this.file);
      this.next = make("div", { class: "next", hidden: true });
      this.article.querySelector(".desk").append(make("div", { class: "line" }, make("div", { class: "how" }, this.progress, this.meter), tools), this.said);
      this.article.querySelector(".desk").after(this.next);
    }

    say(text, bad = false) {
      this.said.textContent = text;
      this.said.classList.toggle("bad", bad);
    }

    // --- rows ------------------------------------------------------------------------------------------------------------
    equip(row) {
      const { li, cluster } = row;
      li.tabIndex = -1;
      li.setAttribute("aria-label", `Cluster ${cluster}`);
      row.fields = make("div", { class: "fields" });
      row.parts = make("input", { type: "number", min: "1", max: String(maskmill.MOST_PARTS), "aria-label": `Number of parts of cluster ${cluster}`, hidden: true, on: {
        change: () => this.cut(row),
        keydown: (event) => {
          if (event.key !== "Enter" && event.key !== "Escape") return;
          if (event.key === "Escape") row.parts.value = "";
          event.preventDefault();
          this.cut(row);
          row.li.focus();
        },
        blur: () => { row.parts.hidden = true; },
      } });
      row.split = button("split", () => this.ask(row), { title: "s" });
      row.near = make("p", { class: "near" });
      li.querySelector(".about").append(row.fields, row.near);
      li.addEventListener("focusin", () => this.select(row, false));
      li.addEventListener("pointerdown", () => this.select(row, false));
      row.others = this.near.get(cluster).filter((other) => this.rows.has(other));
      if (row.others.length) row.near.append("like ");
      row.links = row.others.map((other) => button(String(other), () => this.select(this.rows.get(other), true)));
      row.links.forEach((link, i) => row.near.append(i ? " " : "", link));
    }

    /** One line a unit: a field, and buttons where the cluster is whole, the part's number where it is split. */
    unitLine(row, unit, alone) {
      const field = make("input", { class: "name", role: "combobox", "aria-expanded": "false", "aria-controls": "offer", "aria-autocomplete": "list",
        "aria-label": `Name of cluster ${unit}`, placeholder: alone ? "name" : "name, background or ignore", autocomplete: "off", spellcheck: "false", maxlength: "200", on: {
          focus: () => { field.select(); suggest(field, this.naming.names()); },
          input: () => suggest(field, this.naming.names()),
          blur: () => { withdraw(); this.commit(unit, field); },
          keydown: (event) => this.typed(event, row, unit, field),
        } });
      const set = (owner) => button(owner, () => this.give([unit], this.naming.owner(unit) === owner ? "" : owner), { "aria-pressed": "false", title: owner[0] });
      const presses = alone ? RESERVED.map(set) : [];
      const rest = alone ? [field, make("span", { class: "tools" }, ...presses, row.split, row.parts)] : [make("b", { text: unit }), field];
      return { unit, field, presses, node: make("div", { class: "unit" }, ...rest) };
    }

    typed(event, row, unit, field) {
      const moves = { ArrowDown: () => pick(1), ArrowUp: () => pick(-1) };
      if (event.isComposing) return;
      if (moves[event.key]) moves[event.key]();
      else if (event.key === "Escape") { field.value = this.naming.owner(unit) || ""; row.li.focus(); }
      else if (event.key === "Enter") { this.commit(unit, field); this.onward(row, unit); }
      else return;
      event.preventDefault();
      event.stopPropagation();
    }

    commit(unit, field) {
      const name = tidy(field.value);
      if (name !== (this.naming.owner(unit) || "")) this.give([unit], name);
      field.value = this.naming.owner(unit) || "";
    }

    give(units, owner) {
      const joined = owner && this.naming.unitsOf(owner).length;
      if (!this.naming.assign(units, owner)) return;
      if (owner) this.last = owner;
      const which = `Cluster ${units.join(", ")}`;
      const twins = owner ? this.naming.twins(owner) : [];
      if (twins.length) {
        this.say(`${which}: ${owner}, which differs from ${twins.join(", ")} only in case and is not the same class. u undoes.`, true);
        return;
      }
      this.say(!owner ? `${which} has no name.` : `${which}: ${owner}${joined ? `, with ${count(joined, "other")}`.replace("others", "others") : ""}.`);
    }

    ask(row) {
      row.parts.hidden = false;
      row.parts.value = String(this.naming.doc.split[row.cluster] || 2);
      row.parts.focus();
      row.parts.select();
    }

    cut(row) {
      const parts = Number(row.parts.value);
      row.parts.hidden = true;
      if (!row.parts.value) return;
      if (!Number.isInteger(parts) || parts < 1 || parts > maskmill.MOST_PARTS) this.say(`A cluster is split into 2 to ${maskmill.MOST_PARTS} parts; 1 makes it whole again.`, true);
      else if (this.naming.split(row.cluster, parts)) {
        this.say(parts > 1 ? `Cluster ${row.cluster} becomes ${parts} parts; the next run makes them.` : `Cluster ${row.cluster} is whole again.`);
      }
    }

    // --- moving ----------------------------------------------------------------------------------------------------------
    shown() { return [...this.rows.values()].filter((row) => !row.li.hidden); }

    select(row, focus = true) {
      if (this.current && this.current !== row) {
        this.current.li.classList.remove("current");
        this.reach(this.current, false);
      }
      this.current = row;
      row.li.hidden = false;
      row.li.classList.add("current");
      this.reach(row, true);
      if (!focus) return;
      row.li.focus({ preventScroll: true });
      this.reveal(row);
    }

    /** Scrolls to a row where it is out of view or behind the bars. */
    reveal(row) {
      const area = row.li.getBoundingClientRect(), top = this.article.querySelector(".desk").getBoundingClientRect().bottom;
      if (area.top < top + 8 || area.bottom > innerHeight - 8) row.li.scrollIntoView({ block: area.height > innerHeight - top ? "start" : "center", behavior: "instant" });
    }

    /** Tab visits the fields of the current row only: with 500 rows it would go through 3000. */
    reach(row, on) {
      row.li.tabIndex = on ? 0 : -1;
      for (const node of row.li.querySelectorAll("button, input")) node.tabIndex = on ? 0 : -1;
    }

    step(by) {
      const rows = this.shown(), at = rows.indexOf(this.current);
      const to = at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + by));
      if (rows[to]) this.select(rows[to]);
    }

    /** After a name: the next part of the same cluster, the next cluster without a name, else the next one. */
    onward(row, unit = null) {
      const lines = row.lines, part = lines[lines.findIndex((line) => line.unit === unit) + 1];
      if (unit && part) return part.field.focus();
      const rows = this.shown(), at = rows.indexOf(row);
      const open = [...rows.slice(at + 1), ...rows.slice(0, at)].find((other) => !this.naming.decided(other.cluster));
      return this.select(open || rows[at + 1] || row);
    }

    /** Goes to the cluster whose name tells most: the rule of `maskmill suggest`, with the likest clusters only. */
    telling() {
      const shares = this.naming.about.shares, alike = (cluster) => this.data.influences[cluster - 1] || [];
      const known = new Map(); // cluster -> how well a decided one tells of it
      for (const cluster of shares.keys()) {
        if (this.naming.decided(cluster)) for (const [other, how] of alike(cluster)) known.set(other, Math.max(how, known.get(other) || 0));
      }
      const weight = (cluster) => (this.naming.decided(cluster) ? 0 : Math.sqrt(shares.get(cluster) || 0));
      const gain = (row) => alike(row.cluster).reduce((sum, [other, how]) => sum + weight(other) * Math.max(0, how - (known.get(other) || 0)), 0);
      let best = null, most = 0;
      for (const row of this.rows.values()) {
        const told = this.naming.decided(row.cluster) ? 0 : gain(row);
        if (told > most) [best, most] = [row, told];
      }
      if (!best) { this.say("Every cluster that the page lists is decided."); return; }
      this.select(best);
      this.say(`Cluster ${best.cluster} tells most about what has no name yet.`);
    }

    filter() {
      for (const row of this.rows.values()) {
        const { cluster, li } = row, owners = this.naming.units(cluster).map((unit) => this.naming.owner(unit) || "");
        const found = !this.text || String(cluster) === this.text || owners.some((owner) => owner.toLowerCase().includes(this.text));
        li.hidden = !(found && (this.show === "all" || !this.naming.decided(cluster)));
      }
      if (!this.shown().includes(this.current) && this.shown()[0]) this.select(this.shown()[0], false);
      if (this.text || this.show === "open") this.say(`${count(this.shown().length, "cluster")} shown.`);
      else this.say("");
    }

    toggleOpen() {
      this.show = this.show === "open" ? "all" : "open";
      this.open.setAttribute("aria-pressed", String(this.show === "open"));
      this.filter();
    }

    travel(way) {
      if (this.naming[way]()) this.say(way === "undo" ? "Undone." : "Done again.");
      else this.say(way === "undo" ? "There is nothing to undo." : "There is nothing to do again.");
    }

    // --- what is shown of the document -------------------------------------------------------------------------------------
    colour(owner) {
      const at = this.naming.doc.classes.findIndex((row) => row.name === owner);
      return at < 0 ? null : this.naming.doc.classes[at].colour || this.data.palette[at % this.data.palette.length];
    }

    refresh() {
      for (const row of this.rows.values()) this.draw(row);
      const { decided, clusters, area } = this.naming.progress();
      this.progress.textContent = `${decided} of ${count(clusters, "cluster")}, ${Math.floor(100 * area + 1e-9)} % of the area`;
      this.meter.style.setProperty("--done", area);
      this.undo.disabled = !this.naming.back.length;
      this.redo.disabled = !this.naming.forth.length;
      if (maskmill.classList) maskmill.classList(this);
      if (maskmill.paint) maskmill.paint(this);
    }

    draw(row) {
      const { li, cluster } = row, units = this.naming.units(cluster), owners = units.map((unit) => this.naming.owner(unit) || "");
      const colour = this.colour(this.naming.ownerOf(cluster));
      const near = row.others.map((other) => this.naming.ownerOf(other) || "");
      const seen = JSON.stringify([units, owners, colour, near]);
      if (seen === row.seen) return;
      row.seen = seen;
      if (!row.lines || row.lines.map((line) => line.unit).join() !== units.join()) {
        row.lines = units.map((unit) => this.unitLine(row, unit, units.length === 1));
        row.fields.replaceChildren(...row.lines.map((line) => line.node));
        if (units.length > 1) row.fields.append(make("span", { class: "tools" }, row.split, row.parts));
        this.reach(row, row === this.current);
      }
      row.lines.forEach((line, i) => {
        if (document.activeElement !== line.field || !line.field.value) line.field.value = owners[i];
        line.field.classList.toggle("reserved", RESERVED.includes(owners[i]));
        line.presses.forEach((press, j) => press.setAttribute("aria-pressed", String(owners[i] === RESERVED[j])));
      });
      row.split.textContent = units.length > 1 ? `${units.length} parts` : "split";
      row.links.forEach((link, i) => { link.textContent = [row.others[i], near[i]].filter(Boolean).join(" "); });
      const all = this.naming.ownerOf(cluster);
      li.classList.toggle("open", !this.naming.decided(cluster));
      li.classList.toggle("aside", RESERVED.includes(all));
      li.style.setProperty("--c", colour || this.data.colours[cluster]);
    }

    // --- files -----------------------------------------------------------------------------------------------------------
    get fileName() { return this.data.several ? `taxonomy-${this.recipe.replace(/[^\w.-]/g, "_")}.yaml` : "taxonomy.yaml"; }

    save() {
      if (!Object.keys(this.naming.doc.of).length && !this.naming.doc.corrections.length) {
        this.say("No cluster has a name yet, so there is nothing to save.", true);
        return;
      }
      if (document.activeElement) document.activeElement.blur(); // what stands in a field counts
      const url = URL.createObjectURL(new Blob([this.naming.text()], { type: "application/yaml" }));
      make("a", { href: url, download: this.fileName }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60000);
      const lines = [`taxonomy: {source: file, file: ${this.fileName}}`];
      this.next.hidden = false;
      this.next.replaceChildren(
        make("p", {}, make("b", { text: `${this.fileName} is saved.` }), " Put it beside your config.yaml, add this there, and run the same command again. Only painting and what follows it is done anew.", ...(this.data.several ? [` The file holds for the recipe ${this.recipe} alone; name several as [one.yaml, other.yaml].`] : [])),
        make("pre", { tabindex: "0", text: lines.join("\n") }));
      this.say(`Saved ${this.fileName}. Put it beside config.yaml, set there ${lines[0]} and run the same command again.`);
    }

    async load(file) {
      if (!file) return;
      try {
        const doc = this.naming.parse(await file.text(), file.name);
        const news = this.naming.replace(doc);
        this.say(news ? `${file.name} is loaded: ${count(doc.classes.length, "class")}. Undo brings back what was here.` : `${file.name} says the same as this page.`);
      } catch (error) {
        this.say(error instanceof maskmill.Refused ? error.message : `${file.name} could not be read.`, true);
      }
      this.file.value = "";
    }
  }

  document.body.append(offer);
  offer.addEventListener("pointerdown", (event) => {
    event.preventDefault(); // the field keeps the focus
    const item = event.target.closest("li");
    if (!item) return;
    choice.field.value = item.textContent;
    choice.field.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
  });

  Object.assign(globalThis.maskmill, { Desk, make, button, percent, count, desks: new Map() });
})();
