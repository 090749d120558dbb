"use strict";
// What clusters are called, with undo and redo; no page here. Every change makes a new document, as `read` returns it.
(() => {
  const { byUnit, letter, read, write, RESERVED } = maskmill;
  const STEPS = 300; // that can be undone
  const copy = (value) => JSON.parse(JSON.stringify(value));

  class Naming {
    /** about: {recipe, seed, codebook, clusters: Set, shares: Map of cluster -> share}; text: of the run's taxonomy, or null. */
    constructor(about, text, members) {
      Object.assign(this, { about, members, back: [], forth: [], watchers: [] });
      this.doc = text ? this.parse(text, "the run's taxonomy.yaml") : this.empty();
    }

    empty() {
      const { recipe, seed, codebook } = this.about;
      return { recipe, seed, codebook, classes: [], of: {}, split: {}, unnamed: "ignore", corrections: [], members: "" };
    }

    /** The file's text. */
    text() { return write({ ...this.doc, members: this.members || this.doc.members }); }

    parse(text, file) {
      const doc = read(text, this.about, file);
      return this.members ? { ...doc, members: "" } : doc; // long, and the same for all files of these clusters
    }

    watch(watcher) { this.watchers.push(watcher); }

    tell() { for (const watcher of this.watchers) watcher(this.doc); }

    /** Lets `edit` change a copy of the document; false where it changed nothing. */
    change(edit) {
      const doc = copy(this.doc);
      edit(doc);
      if (JSON.stringify(doc) === JSON.stringify(this.doc)) return false;
      this.back.push(this.doc);
      if (this.back.length > STEPS) this.back.shift();
      this.forth = [];
      this.doc = doc;
      this.tell();
      return true;
    }

    undo() { return this.step(this.back, this.forth); }
    redo() { return this.step(this.forth, this.back); }

    step(from, to) {
      if (!from.length) return false;
      to.push(this.doc);
      this.doc = from.pop();
      this.tell();
      return true;
    }

    // --- questions ---------------------------------------------------------------------------------------------------
    units(cluster) {
      const parts = this.doc.split[cluster];
      return parts ? Array.from({ length: parts }, (_, i) => `${cluster}${letter(i)}`) : [String(cluster)];
    }

    owner(unit) { return this.doc.of[unit]; }

    /** The one owner of a cluster: a name, `background`, `ignore`; undefined while a part of it has none or another. */
    ownerOf(cluster) {
      const owners = new Set(this.units(cluster).map((unit) => this.doc.of[unit]));
      return owners.size === 1 ? [...owners][0] : undefined;
    }

    decided(cluster) { return this.units(cluster).every((unit) => this.doc.of[unit]); }

    names() { return this.doc.classes.map((row) => row.name); }

    /** Other names of classes, or `background` or `ignore`, that differ from a name only in case. */
    twins(name) { return [...this.names(), ...RESERVED].filter((other) => other !== name && other.toLowerCase() === name.toLowerCase()); }

    unitsOf(owner) { return Object.keys(this.doc.of).filter((unit) => this.doc.of[unit] === owner).sort(byUnit); }

    /** {decided, clusters, area}: how far one has come; `area` is the share of what all clusters cover. */
    progress() {
      let decided = 0, area = 0, whole = 0;
      for (const [cluster, share] of this.about.shares) {
        whole += share;
        if (this.decided(cluster)) { decided += 1; area += share; }
      }
      return { decided, clusters: this.about.shares.size, area: whole ? area / whole : 0 };
    }

    /** True where a run of `doc` says what this document says, but for colours that the run has chosen. */
    becomes(doc) {
      const same = (a, b) => JSON.stringify(a) === JSON.stringify(b), names = doc.classes.map((row) => row.name);
      if (!same(doc.split, this.doc.split) || !same(doc.corrections, this.doc.corrections)) return false;
      if (!same(names, this.names()) || doc.unnamed !== this.doc.unnamed) return false;
      return [...this.about.clusters].every((cluster) => this.units(cluster).every((unit) => doc.of[unit] === this.doc.of[unit]));
    }

    // --- changes -----------------------------------------------------------------------------------------------------
    /** Gives units to a class (made where it is new), to `background` or `ignore`, or to nobody (""). */
    assign(units, owner) {
      const name = tidy(owner);
      return this.change((doc) => {
        const before = units.map((unit) => doc.of[unit]);
        for (const unit of units) {
          if (name) doc.of[unit] = name;
          else delete doc.of[unit];
        }
        admit(doc, name);
        sweep(doc, before);
      });
    }

    /** Splits a cluster into parts, which have its name at first; 1 makes it whole again. */
    split(cluster, parts) {
      return this.change((doc) => {
        const before = this.units(cluster), owners = before.map((unit) => doc.of[unit]);
        for (const unit of before) delete doc.of[unit];
        if (parts > 1) doc.split[cluster] = parts;
        else delete doc.split[cluster];
        const whole = owners.every((owner) => owner === owners[0]) ? owners[0] : undefined;
        const after = parts > 1 ? Array.from({ length: parts }, (_, i) => `${cluster}${letter(i)}`) : [String(cluster)];
        after.forEach((unit, i) => {
          const owner = before.length > 1 && parts > 1 ? owners[i] : whole;
          if (owner) doc.of[unit] = owner;
        });
        sweep(doc, owners);
      });
    }

    /** Another name for a class; that of another class joins the two. */
    rename(old, wanted) {
      const name = tidy(wanted);
      if (!name || RESERVED.includes(name)) return false;
      return this.change((doc) => {
        for (const unit of Object.keys(doc.of)) if (doc.of[unit] === old) doc.of[unit] = name;
        for (const row of doc.corrections) {
          for (const key of ["was", "class"]) if (row[key] === old) row[key] = name;
        }
        if (old !== name && doc.classes.some((row) => row.name === name)) doc.classes = doc.classes.filter((row) => row.name !== old);
        else for (const row of doc.classes) if (row.name === old) row.name = name;
      });
    }

    recolour(name, colour) {
      return this.change((doc) => { for (const row of doc.classes) if (row.name === name) row.colour = colour; });
    }

    move(name, by) {
      return this.change((doc) => {
        const at = doc.classes.findIndex((row) => row.name === name), to = at + by;
        if (at < 0 || to < 0 || to >= doc.classes.length) return;
        doc.classes.splice(to, 0, ...doc.classes.splice(at, 1));
      });
    }

    /** A class goes; its clusters have no name again, and its corrections go too. */
    dissolve(name) {
      return this.change((doc) => {
        for (const unit of Object.keys(doc.of)) if (doc.of[unit] === name) delete doc.of[unit];
        doc.classes = doc.classes.filter((row) => row.name !== name);
        doc.corrections = doc.corrections.filter((row) => row.class !== name && row.was !== name);
      });
    }

    unnamed(what) { return this.change((doc) => { doc.unnamed = what; }); }

    correct(row) {
      return this.change((doc) => {
        admit(doc, row.class);
        const same = (other) => other.image === row.image && other.was === row.was && other.region === row.region;
        doc.corrections = [...doc.corrections.filter((other) => !same(other)), row];
      });
    }

    forget(index) {
      return this.change((doc) => {
        const [row] = doc.corrections.splice(index, 1);
        sweep(doc, [row.class, row.was]);
      });
    }

    /** Puts another document in the place of this one; undo brings it back. */
    replace(doc) { return this.change((mine) => { Object.assign(mine, copy(doc)); }); }
  }

  /** One line without spaces around; what nobody can see is left out. */
  function tidy(name) {
    return (name || "").replace(/[\u0000-\u001f\u007f-\u009f\u200b\u2028\u2029\ufeff]+/g, " ").replace(/ +/g, " ").trim().slice(0, 200);
  }

  /** A class of this name, if there is none. */
  function admit(doc, name) {
    if (!name || RESERVED.includes(name) || doc.classes.some((row) => row.name === name)) return;
    doc.classes.push({ name, colour: null });
  }

  /** Classes that lost their last cluster in this change, and that no correction names, go. */
  function sweep(doc, owners) {
    const used = new Set([...Object.values(doc.of), ...doc.corrections.flatMap((row) => [row.was, row.class])]);
    doc.classes = doc.classes.filter((row) => used.has(row.name) || !owners.includes(row.name));
  }

  Object.assign(globalThis.maskmill, { Naming, tidy });
})();
