"use strict";
// taxonomy.yaml: written as people would, and read back; other YAML is refused with the line that is at fault.
globalThis.maskmill = globalThis.maskmill || {};
(() => {
  const HEAD = [
    "# maskmill taxonomy: classes and the clusters that they own. Clusters have the numbers that the report shows; 17b is",
    "# the second part of cluster 17, where `split: {17: 3}` clusters it again. Edit this file, or name clusters in the",
    "# report and save it there; give it back with `taxonomy: {source: file, file: taxonomy.yaml}` and run the same command.",
  ];
  const MEMBERS = "# Where the clusters lay, so that the file can be carried over to another clustering. Leave it as it is.";
  const RESERVED = ["background", "ignore"];
  const UNNAMED = ["ignore", "background", "keep"];
  const MOST_PARTS = 26;
  // What YAML 1.1 or 1.2 would take for something else than text.
  const TYPED = /^(?:true|false|yes|no|on|off|y|n|null|~|[-+.]?[0-9][0-9a-fox_.:eE+-]*|[-+]?\.(?:inf|nan))$/i;
  const byUnit = (a, b) => parseInt(a, 10) - parseInt(b, 10) || (a < b ? -1 : a > b ? 1 : 0);
  const letter = (i) => String.fromCharCode(97 + i);

  // --- writing -------------------------------------------------------------------------------------------------------
  /** A text in double quotes that reads as this text everywhere; the stage taxonomy writes it in the same way. */
  const quoted = (text) => JSON.stringify(text).replace(/[\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);

  /** The file of a document: {recipe, seed, codebook, classes, of, unnamed, split, corrections, members}. */
  function write(doc) {
    const owned = (owner) => Object.keys(doc.of).filter((unit) => doc.of[unit] === owner).sort(byUnit).join(", ");
    const lines = [...HEAD, "taxonomy: 1", `recipe: ${quoted(doc.recipe)}`, `seed: ${doc.seed}`, `codebook: ${quoted(doc.codebook)}`];
    lines.push(doc.classes.length ? "classes:" : "classes: []");
    for (const row of doc.classes) {
      const colour = row.colour ? `colour: ${quoted(row.colour)}, ` : "";
      lines.push(`  - {name: ${quoted(row.name)}, ${colour}clusters: [${owned(row.name)}]}`);
    }
    for (const name of RESERVED) lines.push(`${name}: [${owned(name)}]`);
    lines.push(`unnamed: ${doc.unnamed}`);
    const splits = Object.keys(doc.split).sort(byUnit);
    lines.push(`split: {${splits.map((cluster) => `${cluster}: ${doc.split[cluster]}`).join(", ")}}`);
    lines.push(doc.corrections.length ? "corrections:" : "corrections: []");
    for (const row of doc.corrections) {
      const region = row.region !== undefined ? `region: ${row.region}, ` : "", was = row.was !== undefined ? `was: ${quoted(row.was)}, ` : "";
      lines.push(`  - {image: ${quoted(row.image)}, ${region}${was}class: ${quoted(row.class)}}`);
    }
    if (doc.members) lines.push(MEMBERS, "members: |", ...doc.members.trim().split(/\s+/).map((line) => `  ${line}`));
    return `${lines.join("\n")}\n`;
  }

  // --- reading: the part of YAML that such a file is written in ---------------------------------------------------------
  class Refused extends Error {}

  class Reader {
    constructor(text, file) {
      this.lines = text.replace(/^\ufeff/, "").replace(/\r\n?/g, "\n").split("\n");
      Object.assign(this, { file, row: 0, at: 0 });
    }

    fail(message, row = this.row) {
      throw new Refused(`${this.file}, line ${row + 1}: ${message}`);
    }

    get line() { return this.lines[this.row]; }
    get char() { return this.line[this.at]; }

    /** Goes to the next line with content; its indentation, or -1 at the end. */
    next() {
      while (this.row < this.lines.length && /^\s*(?:#.*)?$/.test(this.line)) this.row += 1;
      if (this.row >= this.lines.length) return -1;
      if (/^ *\t/.test(this.line)) this.fail("a tab before the text; indent with spaces");
      if (/^(?:---|\.\.\.)/.test(this.line)) this.fail("several documents in one file; a taxonomy is one");
      this.at = this.line.length - this.line.trimStart().length;
      return this.at;
    }

    /** Over spaces, and with `lines` over line ends and comments too. */
    space(lines = false) {
      for (;;) {
        while (this.char === " " || (lines && this.char === "\t")) this.at += 1;
        const comment = this.char === "#" && (this.at === 0 || this.line[this.at - 1] === " ");
        if (!lines || (this.at < this.line.length && !comment)) return;
        if (this.row + 1 >= this.lines.length) this.fail("a bracket is not closed");
        this.row += 1;
        this.at = 0;
      }
    }

    /** The rest of the line must be empty. */
    end() {
      const rest = this.line.slice(this.at);
      if (!/^\s*$|^\s+#/.test(rest)) this.fail(`"${rest.trim().slice(0, 40)}" is too much here`);
      this.row += 1;
    }

    block(indent) {
      return /^-(?: |$)/.test(this.line.slice(indent)) ? this.list(indent) : this.map(indent);
    }

    list(indent) {
      const found = { row: this.row, list: [] };
      for (let here = this.next(); here >= indent; here = this.next()) {
        const text = this.line.slice(here);
        if (here > indent) this.fail("indented more than the line before");
        if (!/^-(?: |$)/.test(text)) break;
        this.at = here + 1;
        this.space();
        if (/^[A-Za-z_]+:(?: |$)/.test(this.line.slice(this.at))) {
          this.lines[this.row] = `${this.line.slice(0, here)} ${this.line.slice(here + 1)}`;
          found.list.push(this.map(this.at));
        } else found.list.push(this.value(indent));
      }
      return found;
    }

    map(indent) {
      const found = { row: this.row, map: new Map() };
      for (let here = this.next(); here >= indent; here = this.next()) {
        if (here > indent) this.fail("indented more than the line before");
        if (/^-(?: |$)/.test(this.line.slice(here))) this.fail("a list where a key is expected");
        this.pair(found, () => this.value(indent));
      }
      if (this.row < this.lines.length && this.at > 0 && this.next() > 0 && indent === 0) this.fail("wrong indentation");
      return found;
    }

    pair(found, value) {
      const row = this.row, key = this.scalar(/^[^\s:,[\]{}#"'&*!|>%@`?-][^:,[\]{}#]*(?=:)/);
      if (!key || this.char !== ":" || !/^:(?:\s|$)/.test(this.line.slice(this.at))) this.fail("not a `key: value`");
      this.at += 1;
      if (found.map.has(key.text)) this.fail(`"${key.text}" stands here twice`, row);
      found.map.set(key.text, value());
      found.map.get(key.text).row ??= row;
    }

    value(indent) {
      this.space();
      const row = this.row, rest = this.line.slice(this.at);
      if (/^(?:$|#)/.test(rest)) {
        this.row += 1;
        const here = this.next();
        const deeper = here > indent || (here === indent && /^-(?: |$)/.test(this.line.slice(here)));
        return deeper ? this.block(here) : { row, text: "", empty: true };
      }
      if (/^\|[-+]?\s*$/.test(rest)) return this.literal(indent);
      if (/^[&*!|>%@`?]/.test(rest)) this.fail(`"${rest.slice(0, 20)}": anchors, tags and folded text are no part of a taxonomy`);
      if (/^[[{]/.test(rest)) {
        const found = this.flow();
        this.end();
        return found;
      }
      const found = this.scalar(/^.*?(?=\s+#|\s*$)/);
      if (!found.quoted && /: |:$/.test(found.text)) this.fail(`"${found.text.slice(0, 40)}" has a colon; write it in quotes`);
      this.end();
      return found;
    }

    literal(indent) {
      const row = this.row, lines = [];
      for (this.row += 1; this.row < this.lines.length; this.row += 1) {
        const text = this.line, depth = text.length - text.trimStart().length;
        if (text.trim() && depth <= indent) break;
        lines.push(text.trim());
      }
      return { row, text: lines.join("\n").trim(), quoted: true };
    }

    flow() {
      const row = this.row, close = { "[": "]", "{": "}" }[this.char];
      if (!close) return this.scalar(/^(?:[^,[\]{}#:]|:(?! |$)|(?<! )#)+/) || this.fail(`"${this.line.slice(this.at, this.at + 20)}" is not expected here`);
      const found = close === "]" ? { row, list: [] } : { row, map: new Map() };
      this.at += 1;
      for (;;) {
        this.space(true);
        if (this.char === close) break;
        const item = () => { this.space(true); return this.flow(); };
        if (found.list) found.list.push(item());
        else this.pair(found, item);
        this.space(true);
        if (this.char === ",") this.at += 1;
        else if (this.char !== close) this.fail(`"${close}" or "," is expected before "${this.line.slice(this.at, this.at + 20)}"`);
      }
      this.at += 1;
      return found;
    }

    scalar(plain) {
      const row = this.row, rest = this.line.slice(this.at);
      if (rest[0] === '"' || rest[0] === "'") {
        const token = (rest[0] === '"' ? /^"(?:[^"\\]|\\.)*"/ : /^'(?:[^']|'')*'/).exec(rest);
        if (!token) this.fail("a quote is not closed on its line");
        this.at += token[0].length;
        if (rest[0] === "'") return { row, text: token[0].slice(1, -1).replaceAll("''", "'"), quoted: true };
        try {
          return { row, text: this.unescaped(token[0]), quoted: true };
        } catch (error) {
          return this.fail(`${token[0].slice(0, 40)} has an escape that is not known`);
        }
      }
      const token = plain.exec(rest);
      if (!token || !token[0].trim()) return null;
      if (/^[&*!%@`]/.test(token[0])) this.fail(`"${token[0].slice(0, 20)}": anchors and tags are no part of a taxonomy`);
      this.at += token[0].length;
      return { row, text: token[0].trim(), quoted: false };
    }

    /** The text of a token in double quotes: JSON's escapes, and those that PyYAML writes besides. */
    unescaped(token) {
      const more = { "0": "\\u0000", a: "\\u0007", v: "\\u000b", e: "\\u001b", " ": " ", N: "\\u0085", _: "\\u00a0", L: "\\u2028", P: "\\u2029" };
      const json = token.replace(/\\(?:x([0-9A-Fa-f]{2})|U([0-9A-Fa-f]{8})|(.))/g, (all, two, eight, one) =>
        two ? `\\u00${two}` : eight ? JSON.stringify(String.fromCodePoint(parseInt(eight, 16))).slice(1, -1) : more[one] || all);
      return JSON.parse(json);
    }
  }

  // --- what a taxonomy may say -------------------------------------------------------------------------------------------
  const KEYS = ["taxonomy", "recipe", "seed", "codebook", "classes", ...RESERVED, "unnamed", "split", "corrections", "members"];

  class Document {
    constructor(reader, about) {
      Object.assign(this, { reader, about, owners: new Map() });
    }

    fail(node, message) { this.reader.fail(message, node.row); }

    keys(node, what, allowed) {
      if (!node.map) this.fail(node, `${what}: \`key: value\` pairs are expected`);
      for (const [key, value] of node.map) {
        if (!allowed.includes(key)) this.fail(value, `${what} has no key "${key}"; it has ${allowed.join(", ")}`);
      }
      return node.map;
    }

    items(node, what) {
      if (!node || node.empty) return [];
      if (!node.list) this.fail(node, `${what}: a list is expected, as in [3, 40]`);
      return node.list;
    }

    text(node, what) {
      if (!node || node.text === undefined || node.empty) this.fail(node || { row: 0 }, `${what}: a text is expected`);
      if (!node.quoted && TYPED.test(node.text)) this.fail(node, `${what}: ${node.text} is no text to YAML; write "${node.text}" in quotes`);
      return node.text;
    }

    whole(node, what, low, high) {
      this.plain(node && !node.quoted && node.text, node, what);
      const value = node && !node.quoted && /^[0-9]+$/.test(node.text || "") ? Number(node.text) : NaN;
      if (!(value >= low && value <= high)) this.fail(node || { row: 0 }, `${what}: a whole number from ${low} to ${high} is expected`);
      return value;
    }

    /** A number with a leading zero counts in eights to YAML. */
    plain(text, node, what) {
      if (/^0[0-9]+$/.test(text || "")) this.fail(node, `${what}: ${text} has a leading zero, with which YAML counts in eights; write ${Number(text)}`);
    }

    className(node, what) {
      const name = this.text(node, what).trim();
      if (!name || /[\u0000-\u001f\u007f]/.test(name)) this.fail(node, `${what}: a name of one line is expected`);
      return name;
    }

    splits(node) {
      const found = {};
      if (!node || node.empty) return found;
      if (!node.map) this.fail(node, "split: pairs are expected, as in {17: 3}");
      for (const [cluster, parts] of node.map) {
        this.plain(cluster, parts, "split");
        if (!this.about.clusters.has(Number(cluster))) this.fail(parts, `split: there is no cluster ${cluster}`);
        found[cluster] = this.whole(parts, `split: cluster ${cluster}`, 2, MOST_PARTS);
      }
      return found;
    }

    own(node, owner, doc) {
      for (const item of this.items(node, owner)) {
        this.plain(item.text, item, owner);
        const found = /^([1-9][0-9]*)([a-z]?)$/.exec(item.text || "");
        if (!found || !this.about.clusters.has(Number(found[1]))) this.fail(item, `${owner}: there is no cluster ${item.text || ""}`);
        const unit = found[0], parts = doc.split[found[1]];
        if (found[2] && !(found[2].charCodeAt(0) - 97 < parts)) this.fail(item, `${owner}: cluster ${found[1]} has no part ${unit}; see split`);
        if (!found[2] && parts) this.fail(item, `${owner}: cluster ${unit} is split; name its parts ${unit}a to ${unit}${letter(parts - 1)}`);
        if (doc.of[unit]) this.fail(item, `cluster ${unit} is given twice, to ${doc.of[unit]} and to ${owner}`);
        doc.of[unit] = owner;
      }
    }

    classRow(node, doc) {
      const row = this.keys(node, "a class", ["name", "id", "colour", "clusters"]);
      const name = this.className(row.get("name") || { row: node.row }, "name");
      if (RESERVED.includes(name)) this.fail(node, `"${name}" is no class; list its clusters below ${name}:`);
      if (doc.classes.some((other) => other.name === name)) this.fail(node, `the class "${name}" stands there twice; give it all clusters in one row`);
      const colour = row.has("colour") && !row.get("colour").empty ? this.text(row.get("colour"), "colour").toLowerCase() : null;
      if (colour !== null && !/^#[0-9a-f]{6}$/.test(colour)) this.fail(row.get("colour"), `colour: "${colour}" is no colour; write it as "#804080"`);
      const id = row.has("id") && !row.get("id").empty ? this.whole(row.get("id"), "id", 1, 65534) : doc.classes.length + 1;
      doc.classes.push({ name, colour, id });
      this.own(row.get("clusters"), name, doc);
    }

    correction(node, doc) {
      const row = this.keys(node, "a correction", ["image", "region", "was", "class"]);
      const known = (key) => {
        const name = this.className(row.get(key) || { row: node.row }, key);
        if (!RESERVED.includes(name) && !doc.classes.some((other) => other.name === name)) this.fail(node, `${key}: there is no class "${name}"`);
        return name;
      };
      const found = { image: this.text(row.get("image") || { row: node.row }, "image"), class: known("class") };
      if (row.has("region") && row.has("was")) this.fail(node, "a correction has `region` or `was`, not both");
      if (row.has("region")) found.region = this.whole(row.get("region"), "region", 1, 255);
      if (row.has("was")) found.was = known("was");
      doc.corrections.push(found);
    }

    document(node) {
      if (!node.map || !node.map.has("taxonomy")) this.fail({ row: 0 }, "this is no taxonomy: the line `taxonomy: 1` is missing");
      const top = node.map;
      this.whole(top.get("taxonomy"), "taxonomy: the version", 1, 1);
      this.keys(node, "a taxonomy", KEYS);
      const about = this.about, doc = { recipe: about.recipe, seed: about.seed, codebook: about.codebook, classes: [], of: {}, corrections: [] };
      const other = top.get("codebook");
      if (other && !other.empty && other.text !== about.codebook) {
        this.fail(other, `it was written for another clustering (codebook ${other.text}, here ${about.codebook || "unknown"}), ` +
          "where the numbers mean other clusters; name the file in the configuration, and the run carries it over");
      }
      doc.split = this.splits(top.get("split"));
      for (const row of this.items(top.get("classes"), "classes")) this.classRow(row, doc);
      for (const name of RESERVED) this.own(top.get(name), name, doc);
      doc.unnamed = top.has("unnamed") ? this.text(top.get("unnamed"), "unnamed") : UNNAMED[0];
      if (!UNNAMED.includes(doc.unnamed)) this.fail(top.get("unnamed"), `unnamed: "${doc.unnamed}" is none of ${UNNAMED.join(", ")}`);
      for (const row of this.items(top.get("corrections"), "corrections")) this.correction(row, doc);
      doc.members = top.has("members") ? top.get("members").text || "" : "";
      const ids = doc.classes.map((row) => row.id).sort((a, b) => a - b);
      if (!ids.every((id, i) => id === i + 1)) this.fail(top.get("classes"), `the ids of the classes are ${ids.join(", ")}; give each of 1 to ${ids.length} once, or none`);
      doc.classes = doc.classes.sort((a, b) => a.id - b.id).map(({ name, colour }) => ({ name, colour })); // the order is the number
      return doc;
    }
  }

  /** The document of a file's text; `about`: {recipe, seed, codebook, clusters: Set of numbers}. Throws `Refused`. */
  function read(text, about, file = "taxonomy.yaml") {
    const reader = new Reader(text, file);
    const indent = reader.next();
    if (indent < 0) reader.fail("the file is empty", 0);
    if (indent > 0) reader.fail("the first key is indented");
    const root = /^[[{]/.test(reader.line) ? reader.value(0) : reader.block(0);
    if (reader.next() >= 0) reader.fail("this does not belong to what stands before");
    return new Document(reader, about).document(root);
  }

  Object.assign(globalThis.maskmill, { write, read, Refused, byUnit, letter, RESERVED, UNNAMED, MOST_PARTS });
})();
