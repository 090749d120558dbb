"use strict";
// Recipe switch, opacity, filters, highlighting of one cluster, lightbox. Without this script the page shows everything.
(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const rows = all(".row");
  const state = { recipe: document.body.dataset.opening, cluster: null, text: "" };
  document.documentElement.className = "js";

  const clustersOf = (panel) =>
    (panel.dataset.clusters || "").trim().split(/\s+/).filter(Boolean).map((pair) => pair.split(":").map(Number));
  const isShown = (panel) => !panel.hidden && !panel.classList.contains("asleep");
  const panelsOf = (row) => all(".panel", row).filter(isShown);

  // --- which panels and rows are shown -------------------------------------------------------------------------------
  function showRecipe(recipe) {
    Object.assign(state, { recipe, cluster: null });
    for (const panel of all(".panel[data-recipe]")) {
      panel.hidden = recipe ? panel.dataset.recipe !== recipe : !panel.classList.contains("last");
    }
    for (const part of all("[data-for]")) {
      part.hidden = recipe ? part.dataset.for !== recipe : part.classList.contains("legend");
    }
    document.body.classList.toggle("single", recipe !== "");
    filter();
  }

  function fits(row) {
    if (!row.dataset.id.toLowerCase().includes(state.text)) return false;
    if (state.cluster === null) return true;
    return panelsOf(row).some((p) => p.classList.contains("last") && clustersOf(p).some(([c]) => c === state.cluster));
  }

  function filter() {
    let count = 0;
    for (const row of rows) {
      row.hidden = !fits(row);
      count += !row.hidden;
    }
    for (const chip of all(".chip")) {
      chip.setAttribute("aria-pressed", String(!chip.closest(".legend").hidden && Number(chip.dataset.cluster) === state.cluster));
    }
    const filtered = state.text !== "" || state.cluster !== null;
    if (one("#shown")) {
      one("#shown").textContent = filtered ? `${count} of ${rows.length}` : "";
      one("#clear").hidden = !filtered;
      one("#nothing").hidden = count > 0;
    }
    highlight(state.cluster);
  }

  // --- one cluster stands out: the others of every visible mask fade ---------------------------------------------------
  const pixels = new WeakMap(); // img -> ImageData at the mask's own size
  function read(img) {
    if (!pixels.has(img) && img.naturalWidth) {
      const canvas = Object.assign(document.createElement("canvas"), { width: img.naturalWidth, height: img.naturalHeight });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(img, 0, 0);
      pixels.set(img, context.getImageData(0, 0, canvas.width, canvas.height));
    }
    return pixels.get(img);
  }

  const legends = new Map(); // recipe -> colour number -> chip
  for (const legend of all(".legend")) {
    const byColour = new Map(all(".chip", legend).map((chip) => [parseInt(chip.dataset.colour.slice(1), 16), chip]));
    legends.set(legend.dataset.for, byColour);
  }
  const chipOf = (recipe, cluster) =>
    one(`.legend[data-for="${CSS.escape(recipe)}"] .chip[data-cluster="${Number(cluster)}"]`);

  function fade(img, colour) {
    const source = read(img);
    if (!source) return;
    const canvas = Object.assign(document.createElement("canvas"), { width: source.width, height: source.height });
    const data = new ImageData(new Uint8ClampedArray(source.data), source.width);
    for (let i = 0; i < data.data.length; i += 4) {
      const own = data.data[i + 3] === 255 && (data.data[i] << 16 | data.data[i + 1] << 8 | data.data[i + 2]) === colour;
      if (!own) data.data.set([24, 26, 30, 165], i);
    }
    canvas.getContext("2d").putImageData(data, 0, 0);
    canvas.className = "only";
    img.after(canvas);
  }

  function highlight(cluster) {
    all("canvas.only").forEach((canvas) => canvas.remove());
    if (cluster === null || !state.recipe) return;
    const chip = chipOf(state.recipe, cluster);
    if (!chip) return;
    const colour = parseInt(chip.dataset.colour.slice(1), 16);
    for (const row of rows.filter((r) => !r.hidden)) {
      for (const panel of panelsOf(row)) if (panel.dataset.step !== "cut" && one("img", panel)) fade(one("img", panel), colour);
    }
  }

  // --- what is under the pointer -------------------------------------------------------------------------------------
  const tip = one("#tip");
  function point(event) {
    const frame = event.target.closest && event.target.closest(".frame");
    const area = frame && frame.getBoundingClientRect();
    const img = frame && one("img.mask", frame);
    const owner = frame && (frame.id === "box-frame" ? current() : frame.closest(".panel"));
    const colours = owner && legends.get(owner.dataset.recipe);
    const data = img && owner && owner.dataset.clusters && read(img);
    let chip = null, text = "";
    if (owner && owner.classList.contains("named")) {
      text = maskmill.under(owner, (event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height);
    } else if (data && colours) {
      const x = Math.min(data.width - 1, Math.max(0, Math.floor((event.clientX - area.left) / area.width * data.width)));
      const y = Math.min(data.height - 1, Math.max(0, Math.floor((event.clientY - area.top) / area.height * data.height)));
      const [r, g, b, a] = data.data.slice(4 * (y * data.width + x), 4 * (y * data.width + x) + 4);
      if (a === 255) chip = colours.get(r << 16 | g << 8 | b);
    }
    if (chip) text = `${chip.closest(".legend").dataset.what} ${chip.textContent.trim()}`;
    tip.hidden = !text;
    if (!text) return;
    (frame.closest("dialog") || document.body).append(tip);
    tip.textContent = text;
    const x = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    tip.style.transform = `translate(${x}px, ${Math.max(8, event.clientY - 34)}px)`;
  }

  // --- lightbox ------------------------------------------------------------------------------------------------------
  const box = one("#box");
  const place = { row: 0, panel: null };
  const current = () => place.panel;
  const shownRows = () => rows.filter((row) => !row.hidden);

  function show(panel) {
    const row = panel.closest(".row"), frame = one("#box-frame"), img = one("img", frame), mask = one("img", panel);
    place.panel = panel;
    frame.className = one(".frame", panel).className;
    frame.style.setProperty("--ar", row.style.getPropertyValue("--ar"));
    img.hidden = !mask;
    if (mask) img.src = mask.src;
    else img.removeAttribute("src");
    pixels.delete(img);
    const step = [panel.dataset.recipe, panel.dataset.step].filter(Boolean).join(", ");
    one("#box-title").textContent = `${row.dataset.id}: ${step}`;
    one("#box-clusters").replaceChildren(...clustersOf(panel).map(([cluster, share]) => {
      const item = document.createElement("li"), swatch = document.createElement("i");
      const chip = chipOf(panel.dataset.recipe, cluster);
      if (chip) swatch.style.setProperty("--c", chip.dataset.colour);
      item.append(swatch, `${chip ? chip.textContent.trim() : cluster}, ${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);
      return item;
    }));
    maskmill.enlarged(panel, panel.dataset.recipe || state.recipe);
    if (!box.open) box.showModal();
  }

  function step(by) {
    const panels = panelsOf(place.panel.closest(".row"));
    show(panels[(panels.indexOf(place.panel) + by + panels.length) % panels.length]);
  }

  function leap(by) {
    const list = shownRows(), row = place.panel.closest(".row");
    const next = panelsOf(list[(list.indexOf(row) + by + list.length) % list.length]);
    const same = next.find((p) => p.dataset.step === place.panel.dataset.step && p.dataset.recipe === place.panel.dataset.recipe);
    show(same || next[0]);
  }

  box.addEventListener("keydown", (event) => {
    if (event.target.closest("#box-correct")) return; // its fields have their own keys
    if (maskmill.regions.key(event)) { event.preventDefault(); return; }
    const moves = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowUp: () => leap(-1), ArrowDown: () => leap(1) };
    const toggles = event.key === " " && event.target.tagName !== "BUTTON"; // a button keeps its own Space
    if (moves[event.key]) moves[event.key]();
    else if (toggles) one("#box-frame").classList.toggle("bare");
    else return;
    event.preventDefault();
  });
  box.addEventListener("close", () => {
    maskmill.enlarged(null, "");
    tip.hidden = true; document.body.append(tip); place.panel.focus(); });
  one("#box-close").addEventListener("click", () => box.close());
  one("#box-back").addEventListener("click", () => step(-1));
  one("#box-on").addEventListener("click", () => step(1));
  one("#box-frame").addEventListener("click", (event) => maskmill.regions.clicked(event) || one("#box-frame").classList.toggle("bare"));

  // --- the gallery by keyboard: arrows move between panels -----------------------------------------------------------
  function wander(event) {
    const panel = event.target.closest(".panel");
    if (!panel || event.altKey || event.ctrlKey || event.metaKey) return;
    const list = shownRows(), row = panel.closest(".row"), panels = panelsOf(row), at = panels.indexOf(panel);
    const other = (by) => list[list.indexOf(row) + by];
    const targets = {
      ArrowLeft: () => panels[at - 1], ArrowRight: () => panels[at + 1], Home: () => panels[0], End: () => panels.at(-1),
      ArrowUp: () => other(-1) && panelsOf(other(-1))[at], ArrowDown: () => other(1) && panelsOf(other(1))[at],
    };
    if (!targets[event.key]) return;
    event.preventDefault();
    const target = targets[event.key]();
    if (target) target.focus();
  }

  // --- wiring --------------------------------------------------------------------------------------------------------
  for (const radio of all("input[name=recipe]")) radio.addEventListener("change", () => showRecipe(radio.value));
  const opacity = one("#opacity");
  const setOpacity = () => document.documentElement.style.setProperty("--alpha", String(opacity.value / 100));
  opacity.addEventListener("input", setOpacity);
  if (rows.length) {
    one("#rows").addEventListener("click", (event) => event.target.closest(".panel") && show(event.target.closest(".panel")));
    one("#rows").addEventListener("keydown", wander);
    one("#find").addEventListener("input", (event) => { state.text = event.target.value.trim().toLowerCase(); filter(); });
    one("#clear").addEventListener("click", () => {
      one("#find").value = "";
      Object.assign(state, { text: "", cluster: null });
      filter();
      one("#find").focus();
    });
    for (const chip of all(".chip")) {
      const cluster = Number(chip.dataset.cluster);
      chip.addEventListener("click", () => { state.cluster = state.cluster === cluster ? null : cluster; filter(); });
      chip.addEventListener("pointerenter", () => highlight(cluster));
      chip.addEventListener("pointerleave", () => highlight(state.cluster));
      chip.addEventListener("focus", () => highlight(cluster));
      chip.addEventListener("blur", () => highlight(state.cluster));
    }
  }
  document.addEventListener("pointermove", point, { passive: true });
  const checked = one("input[name=recipe]:checked"); // a reloaded page keeps the reader's choice
  setOpacity();
  showRecipe(checked ? checked.value : state.recipe);
})();
