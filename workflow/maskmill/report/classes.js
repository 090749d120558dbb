"use strict";
// Beside the clusters: the classes with their colours, order and sizes, what becomes of all other clusters, corrections.
(() => {
  const { make, button, percent, RESERVED, UNNAMED } = maskmill;
  const WHAT = { ignore: "ignored", background: "background", keep: "classes of their own" };

  function classRow(desk, name, index, last) {
    const { naming } = desk;
    const units = naming.unitsOf(name);
    const share = units.reduce((sum, unit) => sum + (naming.about.shares.get(parseInt(unit, 10)) || 0) / naming.units(parseInt(unit, 10)).length, 0);
    const field = make("input", { class: "name", value: name, "aria-label": `Name of the class ${name}`, autocomplete: "off", spellcheck: "false", maxlength: "200", on: {
      change: () => { if (!naming.rename(name, field.value)) field.value = name; },
      keydown: (event) => {
        const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
        if (event.key === "Enter") field.blur();
        else if (event.key === "Escape") { field.value = name; field.blur(); }
        else if (by && event.altKey) { naming.move(name, by); desk.focusClass(name); }
        else return;
        event.preventDefault();
        event.stopPropagation();
      },
    } });
    const colour = make("input", { type: "color", value: desk.colour(name), "aria-label": `Colour of ${name}`, on: { change: () => naming.recolour(name, colour.value) } });
    const find = () => { desk.find.value = name; desk.text = name.toLowerCase(); desk.filter(); };
    return make("li", { "data-name": name }, colour, field,
      button(units.length ? percent(share) : "empty", find, { class: "size", title: units.length ? `clusters ${units.join(", ")}; press to show them` : "no cluster" }),
      button("", () => naming.move(name, -1), { class: "up", "aria-label": `${name} up`, disabled: index === 0 }),
      button("", () => naming.move(name, 1), { class: "down", "aria-label": `${name} down`, disabled: last }),
      button("", () => naming.dissolve(name), { class: "gone", "aria-label": `Dissolve ${name}`, title: "its clusters have no name again" }));
  }

  function sentence(row) {
    const what = row.region !== undefined ? `region ${row.region}` : row.was !== undefined ? row.was : "everything";
    return row.class === "ignore" && row.region === undefined && row.was === undefined ? "left out" : `${what} is ${row.class}`;
  }

  /** Items for corrections: [text, button that takes it back]; of one image or of all. */
  function corrections(desk, image = null) {
    return desk.naming.doc.corrections.flatMap((row, i) => (image !== null && row.image !== image ? [] : [make("li", {},
      ...(image === null ? [make("span", { class: "path", text: row.image }), " "] : []), sentence(row),
      button("", () => desk.naming.forget(i), { class: "gone", "aria-label": `Take back: ${row.image}, ${sentence(row)}` }))]));
  }

  /** A line for each class whose name differs from one before it only in case. */
  function twinNotes(naming, names) {
    const known = [...RESERVED, ...names];
    return names.flatMap((name, i) => {
      const twin = naming.twins(name).find((other) => known.indexOf(other) < RESERVED.length + i);
      return twin ? [make("p", { class: "say twins", text: `${twin} and ${name} differ only in case and are not the same class.` })] : [];
    });
  }

  function classList(desk) {
    const { naming } = desk, aside = desk.article.querySelector(".classes");
    const names = naming.names(), at = aside.contains(document.activeElement) && document.activeElement.closest("[data-name]");
    const kept = at ? at.dataset.name : null, part = at ? [...at.children].indexOf(document.activeElement) : -1;
    const rest = make("select", { "aria-label": "What all other clusters become", on: { change: () => naming.unnamed(rest.value) } },
      ...UNNAMED.map((what) => make("option", { value: what, text: WHAT[what], selected: what === naming.doc.unnamed })));
    const own = corrections(desk);
    aside.replaceChildren(
      make("h4", { text: names.length ? `Classes ` : "Classes" }, ...(names.length ? [make("small", { text: String(names.length) })] : [])),
      names.length ? make("ol", { class: "list" }, ...names.map((name, i) => classRow(desk, name, i, i === names.length - 1)))
        : make("p", { class: "say", text: "None yet: the first name makes one. Press n on a cluster, or click its field." }),
      ...twinNotes(naming, names),
      make("label", { class: "rest" }, "All other clusters are", rest),
      ...(own.length ? [make("h4", {}, "Corrections ", make("small", { text: String(own.length) })), make("ul", { class: "fixes" }, ...own)] : []));
    if (kept !== null) desk.focusClass(kept, part);
  }

  maskmill.Desk.prototype.focusClass = function focusClass(name, part = 1) {
    const row = [...this.article.querySelectorAll(".classes [data-name]")].find((li) => li.dataset.name === name);
    if (row) (row.children[part] && !row.children[part].disabled ? row.children[part] : row.children[1]).focus();
  };

  Object.assign(globalThis.maskmill, { classList, corrections });
})();
