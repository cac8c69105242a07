"use strict";
// The editor of labels. Offsets are code points, as in Limbeck's tables: text is handled as an array of code points.

const form = document.getElementById("decision");
if (form) startEditor(form, JSON.parse(form.dataset.editor));
document.addEventListener("keydown", (event) => {
  if (isTyping(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  const undo = document.getElementById("undo");
  if (event.key === "u" && undo) { event.preventDefault(); undo.requestSubmit(); }
});

function isTyping(event) {
  return event.target.matches("input:not([type=hidden]), textarea, select");
}

function startEditor(form, given) {
  const points = Array.from(given.query);
  const text = (start, end) => points.slice(start, end).join("");
  const roles = new Map(given.roles.map((r) => [r.name, r]));
  const drawn = document.getElementById("drawn");
  const others = document.getElementById("others");
  const cursorText = document.getElementById("cursor");
  let labels = given.labels.map(({ role, text, start = null, end = null }) => ({ role, text, start, end }));
  let units = given.units;
  let characters = false;
  let cursor = 0;
  let anchor = 0;

  // -- what is shown --

  function render() {
    const [from, to] = selection();
    const borders = new Set([0, points.length]);
    for (const [start, end] of units) borders.add(start).add(end);
    for (const label of labels) if (label.start !== null) borders.add(label.start).add(label.end);
    const marks = [...borders].sort((a, b) => a - b);
    drawn.replaceChildren();
    for (let i = 0; i + 1 < marks.length; i++) {
      const [start, end] = [marks[i], marks[i + 1]];
      const label = labels.find((l) => l.start !== null && l.start <= start && end <= l.end);
      const unit = units.findIndex(([s, e]) => s <= start && end <= e);
      const part = document.createElement("span");
      part.textContent = text(start, end);
      if (unit >= 0) part.dataset.unit = unit;
      if (label) part.classList.add("labelled", `c${roles.get(label.role)?.colour ?? 0}`);
      if (units.length && start >= from && end <= to) part.classList.add("selected");
      drawn.append(part);
      if (label && label.end === end) {
        const name = document.createElement("small");
        name.textContent = label.role;
        name.className = `tag c${roles.get(label.role)?.colour ?? 0}`;
        drawn.append(name);
      }
    }
    others.replaceChildren(...labels.filter((l) => l.start === null).map(chip));
    form.elements.labels.value = JSON.stringify(labels);
    if (!units.length) return;
    const here = labels.filter((l) => l.start !== null && l.start < to && from < l.end).map((l) => l.role);
    cursorText.textContent = `${text(from, to)}: ${here.join(", ") || "no label"}`;
  }

  function chip(label) {
    const shown = document.createElement("span");
    shown.className = `chip c${roles.get(label.role)?.colour ?? 0}`;
    shown.append(label.text);
    const name = document.createElement("small");
    name.textContent = label.role;
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "remove";
    remove.textContent = "×";
    remove.setAttribute("aria-label", `Remove ${label.role}: ${label.text}`);
    remove.addEventListener("click", () => { labels = labels.filter((l) => l !== label); render(); drawn.focus(); });
    shown.append(name, remove);
    return shown;
  }

  // -- what is selected: from the anchor's unit to the cursor's --

  function selection() {
    if (!units.length) return [0, 0];
    const [first, last] = [Math.min(anchor, cursor), Math.max(anchor, cursor)];
    return [units[first][0], units[last][1]];
  }

  function move(step, extend) {
    cursor = Math.max(0, Math.min(units.length - 1, cursor + step));
    if (!extend) anchor = cursor;
    render();
  }

  function toggleCharacters() {
    const [from] = selection();
    characters = !characters;
    units = characters ? graphemes() : given.units;
    cursor = anchor = Math.max(0, units.findIndex(([, end]) => end > from));
    render();
  }

  function graphemes() {
    const out = [];
    let at = 0;
    for (const { segment } of new Intl.Segmenter().segment(given.query)) {
      const end = at + Array.from(segment).length;
      if (segment.trim()) out.push([at, end]);
      at = end;
    }
    return out;
  }

  // -- changes --

  function put(name) {
    const role = roles.get(name);
    if (role.kind !== "open") {
      form.querySelector(`.combo[data-role="${CSS.escape(name)}"] input`).focus();
      return;
    }
    if (!units.length) return;
    const [start, end] = selection();
    labels = labels.filter((l) => (l.start === null || l.end <= start || end <= l.start)
      && (role.multiple || l.role !== name));
    labels.push({ role: name, text: text(start, end), start, end });
    render();
  }

  function removeHere() {
    const [from, to] = selection();
    labels = labels.filter((l) => l.start === null || l.end <= from || to <= l.start);
    render();
  }

  function setValue(name, value) {
    const role = roles.get(name);
    labels = labels.filter((l) => l.role !== name || (role.multiple && l.text !== value));
    labels.push({ role: name, text: value, start: null, end: null });
    render();
  }

  // -- keys and mouse --

  const keys = new Map(given.roles.filter((r) => r.key).map((r) => [r.key, r.name]));
  const press = (value) => form.querySelector(`button[name=decision][value=${value}]`);
  const save = press("keep") ?? press("settle");

  document.addEventListener("keydown", (event) => {
    if (isTyping(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    const onControl = event.target.matches("button, a, summary");
    if (event.key === "Enter" || event.key === "a") {
      if (event.key === "Enter" && onControl) return;
      form.requestSubmit(save);
    } else if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      move(event.key === "ArrowRight" ? 1 : -1, event.shiftKey);
    } else if (event.key === "Home" || event.key === "End") {
      move(event.key === "End" ? units.length : -units.length, event.shiftKey);
    } else if (event.key === "x" || event.key === "Delete" || event.key === "Backspace") {
      removeHere();
    } else if (event.key === "m") {
      toggleCharacters();
    } else if (event.key === "r") {
      form.requestSubmit(press("reject"));
    } else if (event.key === "s" && press("skip")) {
      form.requestSubmit(press("skip"));
    } else if (keys.has(event.key)) {
      put(keys.get(event.key));
    } else {
      return;
    }
    event.preventDefault();
  });

  const unitAt = (event) => {
    const part = document.elementFromPoint(event.clientX, event.clientY)?.closest("#drawn [data-unit]");
    return part ? Number(part.dataset.unit) : null;
  };
  let dragging = false;
  drawn.addEventListener("pointerdown", (event) => {
    const unit = unitAt(event);
    if (unit === null || event.button !== 0) return;
    event.preventDefault();
    drawn.focus();
    dragging = true;
    cursor = unit;
    if (!event.shiftKey) anchor = unit;
    render();
  });
  document.addEventListener("pointermove", (event) => {
    const unit = dragging ? unitAt(event) : null;
    if (unit !== null && unit !== cursor) { cursor = unit; render(); }
  });
  document.addEventListener("pointerup", () => { dragging = false; });
  for (const button of form.querySelectorAll("button[data-role]")) {
    button.addEventListener("click", () => { put(button.dataset.role); drawn.focus(); });
  }
  for (const combo of form.querySelectorAll(".combo")) startCombo(combo, form.dataset.values, setValue, drawn, () => form.requestSubmit(save));

  render();
  drawn.focus({ preventScroll: true });
}

// A field with a list of the values that contain what is typed (closed roles), or of any text (text roles).
function startCombo(combo, address, setValue, back, send) {
  const input = combo.querySelector("input");
  const list = combo.querySelector("ul");
  const { role, kind } = combo.dataset;
  let found = [];
  let active = 0;
  let asked = Promise.resolve();
  let latest = 0;
  let waiting = false;
  let sendAfter = false;

  async function look() {
    const number = ++latest;
    const answer = await fetch(`${address}?${new URLSearchParams({ role, text: input.value.trim() })}`);
    if (!answer.ok || number !== latest) return;
    found = await answer.json();
    active = 0;
    show();
  }

  function show() {
    list.replaceChildren(...found.map((value, i) => {
      const option = document.createElement("li");
      option.textContent = value;
      option.id = `${list.id}-${i}`;
      option.setAttribute("role", "option");
      option.setAttribute("aria-selected", String(i === active));
      option.addEventListener("pointerdown", (event) => { event.preventDefault(); take(value); });
      return option;
    }));
    list.hidden = !found.length;
    input.setAttribute("aria-expanded", String(!list.hidden));
    if (found.length) input.setAttribute("aria-activedescendant", `${list.id}-${active}`);
    else input.removeAttribute("aria-activedescendant");
  }

  function close() {
    latest++;
    found = [];
    input.value = "";
    if (list) show();
  }

  function take(value) {
    setValue(role, value);
    close();
    back.focus();
  }

  input.addEventListener("focus", () => { if (list) asked = look(); });
  input.addEventListener("blur", close);
  input.addEventListener("input", () => { if (list) asked = look(); });
  input.addEventListener("keydown", async (event) => {
    if (event.key === "Escape") {
      close();
      back.focus();
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (kind === "text") {
        if (input.value.trim()) take(input.value.trim());
        return;
      }
      if (waiting) {  // the next Enter of someone who types faster than the list comes
        sendAfter = true;
        return;
      }
      waiting = true;
      await asked;
      waiting = false;
      const sending = sendAfter && found.length > 0;
      sendAfter = false;
      if (found.length) take(found[active]);
      if (sending) send();
    } else if (list && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      active = Math.max(0, Math.min(found.length - 1, active + (event.key === "ArrowDown" ? 1 : -1)));
      show();
    }
  });
}
