"use strict";
// The gallery in the colours of the classes, painted as names are given; corrections of one image in its large view.
(() => {
  const { make, button, corrections, percent, RESERVED } = maskmill;
  const DARK = [20, 22, 26, 150], STRIPE = [205, 205, 205, 110], BETWEEN = [20, 22, 26, 60], PITCH = 7, FAINT = 90; // as in the masks
  const SIDE = 112; // pixels that the longer side of a painted map has at least: the hatching is finer than its cells

  /** Mask values of a map that Python packed: (value, run length) pairs of LEB128 numbers. */
  function unpacked([height, width, text]) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), values = new Uint32Array(height * width);
    let at = 0, place = 0;
    const number = () => {
      for (let found = 0, shift = 0; ; shift += 7) {
        const byte = bytes[at];
        at += 1;
        found |= (byte & 127) << shift;
        if (byte < 128) return found;
      }
    };
    while (at < bytes.length) {
      const value = number(), run = number();
      values.fill(value, place, place + run);
      place += run;
    }
    return { height, width, values };
  }

  const mapOf = (desk, image) => {
    desk.maps = desk.maps || new Map();
    if (!desk.maps.has(image) && Object.hasOwn(desk.data.maps, image)) desk.maps.set(image, unpacked(desk.data.maps[image]));
    return desk.maps.get(image);
  };

  /**
   * Who owns a mask value (of a region) in an image, its corrections applied: a name, `background`, `ignore`, or undefined.
   * One rule after the other, as in the run, where nothing is corrected outside the regions of a recipe that has some.
   */
  function ownerIn(desk, image) {
    const rules = desk.naming.doc.corrections.filter((row) => row.image === image), known = new Map();
    const cut = Object.hasOwn(desk.data.parts || {}, image);
    const fits = (rule, own, region) => (rule.region !== undefined ? rule.region === region : rule.was === undefined || rule.was === own);
    return (value, region = 0) => {
      const key = value * 256 + region;
      if (!known.has(key)) {
        let own = value ? desk.naming.ownerOf(value) : undefined;
        for (const rule of cut && !region ? [] : rules) if (fits(rule, own, region)) own = rule.class;
        known.set(key, own);
      }
      return known.get(key);
    };
  }

  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

  function paintOne(desk, panel) {
    const image = panel.closest(".row").dataset.id, map = mapOf(desk, image), owner = ownerIn(desk, image);
    const parts = maskmill.regions.partsOf(desk, image);
    const zoom = Math.max(1, Math.ceil(SIDE / Math.max(map.width, map.height))), width = map.width * zoom, height = map.height * zoom;
    const canvas = panel.querySelector("canvas"), data = new ImageData(width, height), colours = new Map();
    for (let i = 0; i < width * height; i += 1) {
      const x = i % width, y = Math.floor(i / width), cell = Math.floor(y / zoom) * map.width + Math.floor(x / zoom);
      const value = map.values[cell], region = parts ? parts.values[cell] : 0, place = value * 256 + region;
      if (!colours.has(place)) {
        const own = owner(value, region);
        const named = own && !RESERVED.includes(own) && [...rgb(desk.colour(own) || "#888888"), 255];
        colours.set(place, own === "ignore" ? null : own === "background" ? DARK : named || (value ? [...rgb(desk.data.colours[value]), FAINT] : DARK));
      }
      data.data.set(colours.get(place) || ((x + y) % PITCH ? BETWEEN : STRIPE), 4 * i);
    }
    Object.assign(canvas, { width, height });
    canvas.getContext("2d", { willReadFrequently: true }).putImageData(data, 0, 0);
    panel.dataset.stale = "";
  }

  // Only what can be seen is painted, the rest when it comes into view.
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      entry.target.dataset.near = entry.isIntersecting ? "1" : "";
      if (entry.isIntersecting && entry.target.dataset.stale) paintOne(maskmill.desks.get(entry.target.dataset.recipe), entry.target);
    }
  }, { rootMargin: "300px" });

  function paint(desk) {
    const { doc } = desk.naming, named = Object.keys(doc.of).length + doc.corrections.length > 0;
    const live = named && desk.naming.text() !== desk.data.taxonomy; // the masks of a named run have the names already
    if (!desk.panels) {
      desk.panels = [...document.querySelectorAll(".panel.named")].filter((panel) => panel.dataset.recipe === desk.recipe);
      desk.panels.forEach((panel) => seen.observe(panel));
    }
    for (const panel of desk.panels) {
      panel.classList.toggle("asleep", !live);
      panel.dataset.stale = "1";
      if (live && panel.dataset.near) paintOne(desk, panel);
    }
    if (shown.desk === desk) enlarged(shown.panel, desk.recipe);
  }

  /** What a place of a painted panel is called; x and y in 0..1. */
  function under(panel, x, y) {
    const desk = maskmill.desks.get(panel.dataset.recipe), image = panel.closest(".row").dataset.id, map = mapOf(desk, image);
    const place = (part, size) => Math.min(size - 1, Math.max(0, Math.floor(part * size)));
    const cell = place(y, map.height) * map.width + place(x, map.width), value = map.values[cell];
    const parts = maskmill.regions.partsOf(desk, image), region = parts ? parts.values[cell] : 0, owner = ownerIn(desk, image)(value, region);
    const where = [value && `cluster ${value}`, region && `region ${region}`].filter(Boolean).join(", ");
    return where ? `${owner || "no name"} (${where})` : owner || "";
  }

  // --- the large view ------------------------------------------------------------------------------------------------------
  const shown = { desk: null, panel: null };

  /** Cells of an image by what `owner` says of its mask values and regions; by default corrections are not applied. */
  function cells(desk, image, owner = (value) => (value ? desk.naming.ownerOf(value) : undefined)) {
    const map = mapOf(desk, image), parts = maskmill.regions.partsOf(desk, image), found = new Map();
    (map ? map.values : []).forEach((value, i) => {
      const own = owner(value, parts ? parts.values[i] : 0);
      found.set(own, (found.get(own) || 0) + 1);
    });
    return found;
  }

  /** What is in an image, the largest first, with its colour and share. */
  function legend(desk, image) {
    const found = [...cells(desk, image, ownerIn(desk, image))].sort((a, b) => b[1] - a[1]), whole = found.reduce((sum, [, count]) => sum + count, 0);
    return found.map(([owner, count]) => {
      const swatch = make("i");
      swatch.style.setProperty("--c", { background: "#202329", ignore: "#cdcdcd" }[owner] || desk.colour(owner) || "transparent");
      return make("li", {}, swatch, `${owner || "without a name"}, ${percent(count / whole)}`);
    });
  }

  function showCorrections() {
    const { desk, panel } = shown, place = document.querySelector("#box-correct");
    place.hidden = !desk;
    if (!desk) return;
    const image = panel.closest(".row").dataset.id, present = cells(desk, image);
    const classes = desk.naming.names().filter((name) => present.has(name));
    const parts = maskmill.regions.regionsOf(desk, image), chosen = maskmill.regions.chosen();
    const choose = () => {
      const { value } = was;
      maskmill.regions.pick(Number(value.startsWith("#") && value.slice(1))); // which makes these fields anew
      Object.assign(place.querySelector("select"), { value }).focus();
    };
    const was = make("select", { "aria-label": "What is wrong", on: { change: choose } },
      ...parts.map((region) => make("option", { value: `#${region}`, selected: region === chosen, text: `region ${region} (${maskmill.regions.calledIn(desk, image, region)})` })),
      ...classes.map((name) => make("option", { value: `=${name}`, text: name })), make("option", { value: "", text: "everything" }));
    const right = make("input", { list: "box-names", "aria-label": "What it is", placeholder: "class", autocomplete: "off", maxlength: "200" });
    if (!chosen) was.selectedIndex = parts.length; // a region is wrong only where somebody has chosen it
    const set = () => {
      const name = maskmill.tidy(right.value);
      if (!name) return;
      if (was.value.startsWith("#")) {
        maskmill.regions.give(name);
        document.querySelector("#box-frame").focus(); // on with the keys
      } else desk.naming.correct({ image, class: name, ...(was.value ? { was: was.value.slice(1) } : {}) });
    };
    right.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      event.stopPropagation(); // these fields are gone when the large view would ask where the key came from
      set();
    });
    const field = place.contains(document.activeElement) && document.activeElement.tagName;
    place.replaceChildren(
      make("span", {}, "In this image ", was, " is ", right, " ", button("Set", set)),
      button("Leave this image out", () => desk.naming.correct({ image, class: "ignore" })),
      make("datalist", { id: "box-names" }, ...[...desk.naming.names(), ...RESERVED].map((name) => make("option", { value: name }))),
      ...(parts.length ? [make("p", { class: "hint" }, "Click a region, or ", kbd("j"), " ", kbd("k"), "; ", kbd("1"), " … ", kbd("9"), " ", kbd("b"), " ", kbd("i"), " ", kbd("n"), " say what it is, ", kbd("x"), " takes it back, ", kbd("u"), " undoes")] : []),
      make("ul", { class: "fixes" }, ...corrections(desk, image)));
    if (field) (field === "SELECT" ? was : right).focus();
  }

  const kbd = (text) => make("kbd", { text });

  /** The large view shows this panel, or none; `recipe` is the one whose clusters are corrected, "" for none. */
  function enlarged(panel, recipe) {
    Object.assign(shown, { desk: (panel && maskmill.desks.get(recipe)) || null, panel });
    if (shown.desk && panel.classList.contains("named")) {
      if (panel.dataset.stale) paintOne(shown.desk, panel);
      Object.assign(document.querySelector("#box-frame img"), { src: panel.querySelector("canvas").toDataURL(), hidden: false });
      document.querySelector("#box-clusters").replaceChildren(...legend(shown.desk, panel.closest(".row").dataset.id));
    }
    maskmill.regions.shown(shown.desk, panel ? panel.closest(".row").dataset.id : "");
    showCorrections();
  }

  Object.assign(globalThis.maskmill, { paint, under, enlarged, unpacked, mapOf, ownerIn, correctable: showCorrections });
})();
