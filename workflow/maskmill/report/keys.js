"use strict";
// Starts the editors; the keyboard, the list of keys, and files that are dropped on the page.
(() => {
  const { Desk, desks, make, button } = maskmill;
  const KEYS = [
    ["j ↓ · k ↑", "next cluster · the one before"], ["o", "next cluster without a name"], ["t", "the cluster whose name tells most"], ["n Enter", "name it; a name that exists joins the class"],
    ["1 … 9", "the class of this number"], [".", "the name given last"], ["b · i", "background · ignore"], ["s", "split into parts"], ["x", "no name"],
    ["u · r", "undo · redo (also Ctrl Z, Ctrl Y)"], ["f · /", "only those without a name · find"], ["c", "to the classes; Alt ↑ ↓ moves one"],
    ["w · l", "save · load taxonomy.yaml"], ["Esc", "out of a field"], ["?", "this list"],
  ];

  const sheet = make("dialog", { class: "sheet", "aria-label": "Keys of the clusters" },
    make("div", { class: "head" }, make("h2", { text: "Keys" }), button("Close", () => sheet.close())),
    make("dl", {}, ...KEYS.map(([keys, what]) => make("div", {}, make("dt", {}, ...keys.split(" ").map((key) => (key === "·" || key === "…" ? `${key} ` : make("kbd", { text: key })))), make("dd", { text: what })))));
  document.body.append(sheet);
  maskmill.help = () => sheet.showModal();

  // The bar of the editor stands below that of the page.
  new ResizeObserver(([entry]) => document.documentElement.style.setProperty("--nav", `${entry.target.offsetHeight}px`)).observe(document.querySelector(".bar"));

  for (const block of document.querySelectorAll("script.naming-data")) {
    const data = JSON.parse(block.textContent);
    const article = [...document.querySelectorAll(".atlas")].find((node) => node.dataset.recipe === data.recipe);
    if (data.clusters.length) desks.set(data.recipe, new Desk(article, data));
  }

  /** The editor that keys are meant for: where the focus is, else the first one in view; with Ctrl from anywhere. */
  function active(anywhere) {
    const all = [...desks.values()].filter((desk) => desk.article.checkVisibility());
    const own = all.find((desk) => desk.article.contains(document.activeElement));
    if (own || anywhere) return own || all[0] || null;
    if (document.activeElement && document.activeElement !== document.body) return null;
    return all.find((desk) => { const area = desk.article.getBoundingClientRect(); return area.top < innerHeight && area.bottom > 0; }) || null;
  }

  const on = (desk, act) => desk.current && act(desk.current);
  const owners = (desk, owner) => on(desk, (row) => {
    desk.give(desk.naming.units(row.cluster), desk.naming.ownerOf(row.cluster) === owner ? "" : owner);
    if (desk.naming.decided(row.cluster)) desk.onward(row);
  });
  const PLAIN = {
    j: (desk) => desk.step(1), ArrowDown: (desk) => desk.step(1), k: (desk) => desk.step(-1), ArrowUp: (desk) => desk.step(-1),
    Home: (desk) => desk.step(-1e9), End: (desk) => desk.step(1e9), o: (desk) => on(desk, (row) => desk.onward(row)),
    n: (desk) => on(desk, (row) => { desk.select(row); row.lines[0].field.focus(); }),
    t: (desk) => desk.telling(),
    b: (desk) => owners(desk, "background"), i: (desk) => owners(desk, "ignore"),
    x: (desk) => on(desk, (row) => desk.give(desk.naming.units(row.cluster), "")),
    ".": (desk) => desk.last && owners(desk, desk.last), s: (desk) => on(desk, (row) => { desk.select(row); desk.ask(row); }),
    u: (desk) => desk.travel("undo"), r: (desk) => desk.travel("redo"), f: (desk) => desk.toggleOpen(), "/": (desk) => desk.find.focus(),
    c: (desk) => { const first = desk.article.querySelector(".classes .name, .classes select"); if (first) first.focus(); },
    w: (desk) => desk.save(), l: (desk) => desk.file.click(), "?": () => maskmill.help(),
  };
  PLAIN.Enter = PLAIN.n;
  const WITH_CONTROL = { z: "undo", y: "redo", Z: "redo" };

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.altKey || document.querySelector("dialog[open]")) return;
    const field = event.target.closest("input, select, textarea, summary, a"), desk = active(event.ctrlKey || event.metaKey);
    const inEditor = desk && field && desk.article.contains(field);
    const typing = field && field.matches("input:not([type=radio], [type=range], [type=color]), select");
    let act = null;
    if (event.ctrlKey || event.metaKey) {
      const way = WITH_CONTROL[event.shiftKey ? event.key.toUpperCase() : event.key];
      if (desk && event.key === "s") act = () => desk.save();
      else if (desk && way && !typing) act = () => desk.travel(way);
    } else if (inEditor && event.key === "Escape") act = () => (desk.current ? desk.select(desk.current) : field.blur());
    else if (desk && !typing && !field) {
      // Keys that scroll the page or press a button keep doing so where no cluster has the focus.
      const inside = event.target.closest(".cluster") && !(event.key === "Enter" && event.target.closest("button"));
      if (/^[1-9]$/.test(event.key) && desk.naming.names()[event.key - 1]) act = () => owners(desk, desk.naming.names()[event.key - 1]);
      else if (Object.hasOwn(PLAIN, event.key) && (event.key.length === 1 || inside)) act = () => PLAIN[event.key](desk);
    }
    if (!act) return;
    event.preventDefault();
    act();
  });

  // After a jump to the clusters the keys are theirs.
  for (const link of document.querySelectorAll('a[href="#clusters"]')) {
    link.addEventListener("click", () => { const desk = active(true); if (desk && desk.current) desk.current.li.focus({ preventScroll: true }); });
  }

  // --- a file dropped anywhere --------------------------------------------------------------------------------------------
  const files = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  document.addEventListener("dragover", (event) => { if (files(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    const desk = active(true);
    if (desk) desk.load(event.dataTransfer.files[0]);
  });
})();
