"use strict";
(function () {
  const holder = document.getElementById("viewer-data");
  const root = document.getElementById("viewer");
  if (!holder || !root) return;
  const all = JSON.parse(holder.textContent);
  const byId = (id) => document.getElementById(id);
  const slider = byId("viewer-slice");
  const where = byId("viewer-where");
  const strip = byId("viewer-strip");
  const picker = byId("viewer-case");
  const state = { at: 0, slice: 0, view: "", shown: { reference: true, prediction: true, boxes: true }, off: new Set(), chosen: false };
  const kept = new Map();  // decoded pictures
  let current = all.cases[0];

  const { make, draw, compose } = viewerParts;
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const count = () => current.slices.length;
  const view = () => current.views.find((v) => v.name === state.view) || current.views[0];
  const visibleStructures = () => all.structures.map((_, k) => k).filter((k) => !state.off.has(k));

  // ---- the two pictures

  const panes = Array.from(root.querySelectorAll(".v-pane"), function (element, k) {
    const pane = {
      arm: -1,
      letter: "AB"[k],
      select: element.querySelector("select"),
      stage: element.querySelector(".v-stage"),
      frame: element.querySelector(".v-frame"),
      canvas: element.querySelector("canvas"),
      svg: element.querySelector("svg"),
      over: element.querySelector(".v-over"),
      scores: element.querySelector(".v-scores"),
    };
    pane.select.append(new Option("reference only", "-1"));
    all.arms.forEach((arm, number) => pane.select.append(new Option(arm.name, String(number))));
    pane.select.addEventListener("change", function () { setArm(pane, Number(pane.select.value)); });
    pane.stage.addEventListener("wheel", (event) => onWheel(event, pane), { passive: false });
    pane.stage.addEventListener("pointermove", (event) => cross(event, pane));
    pane.stage.addEventListener("pointerleave", () => cross(null, pane));
    return pane;
  });

  function setArm(pane, arm) {
    state.chosen = true;
    pane.arm = arm;
    pane.select.value = String(arm);
    scores(pane);
    paintPane(pane);
    drawStrip();
    tell();
  }

  function picture(modality, slice) {
    const key = current.name + "\n" + modality + "\n" + slice;
    if (!kept.has(key)) {
      if (kept.size > 400) kept.clear();
      const image = new Image();
      image.src = "data:image/webp;base64," + current.pictures[modality][slice];
      kept.set(key, image.decode().then(() => image));
    }
    return kept.get(key);
  }

  function paint() {
    const channels = view().channels;
    const names = Array.from(new Set(channels.flat()));
    const mine = current.name + state.slice + view().name;
    root.dataset.wanted = mine;
    Promise.all(names.map((name) => picture(name, state.slice))).then(function (found) {
      if (root.dataset.wanted !== mine) return;
      const images = {};
      names.forEach((name, k) => { images[name] = found[k]; });
      panes.forEach(function (pane) {
        pane.canvas.width = found[0].naturalWidth;
        pane.canvas.height = found[0].naturalHeight;
        compose(pane.canvas.getContext("2d"), pane.canvas.width, pane.canvas.height, channels, images);
      });
      root.dataset.painted = mine;
      for (const next of [state.slice + 1, state.slice - 1]) {
        if (next >= 0 && next < count()) names.forEach((name) => picture(name, next));
      }
    }).catch(function () {
      root.dataset.painted = "failed";
      panes.forEach((pane) => pane.over.append(make("span", "v-lost", "The picture cannot be shown by this browser.")));
    });
    panes.forEach(paintPane);
  }

  function contour(pane, path, kind, colour) {
    if (!path) return null;
    pane.svg.append(draw("path", { class: "halo", d: path }));
    const line = draw("path", { class: kind, d: path });
    if (colour) line.style.stroke = colour;
    pane.svg.append(line);
    return line;
  }

  function paintPane(pane) {
    const z = state.slice, arm = pane.arm < 0 ? null : current.arms[pane.arm];
    pane.svg.setAttribute("viewBox", "0 0 " + current.width + " " + current.height);
    pane.svg.replaceChildren();
    pane.over.replaceChildren();
    const labelled = [];
    for (const k of visibleStructures()) {
      if (state.shown.boxes && current.prompts[k][z]) contour(pane, current.prompts[k][z], "box");
      let first = null;
      if (state.shown.reference) first = contour(pane, current.reference[k][z], "reference");
      if (state.shown.prediction && arm && arm.paths) {
        first = contour(pane, arm.paths[k][z], "prediction", all.arms[pane.arm].line) || first;
      }
      if (first) labelled.push([k, first]);
    }
    if (all.structures.length > 1) labelled.forEach(([k, line]) => label(pane, line, all.structures[k]));
    const corners = [["v-left", current.sides[0]], ["v-right", current.sides[1]], ["v-top", current.sides[2]], ["v-bottom", current.sides[3]]];
    corners.forEach(([name, text]) => pane.over.append(make("span", name, text)));
    pane.over.append(make("span", "v-number", (current.slices[z] + 1) + "/" + current.of + "  " + current.positions[z] + " mm"));
    pane.over.append(make("span", "v-view", view().name));
    const bar = make("span", "v-scale", current.bar + " mm");
    bar.style.width = 100 * current.bar / (current.width * current.column) + "%";
    pane.over.append(bar);
    if (arm && !arm.paths) pane.over.append(make("span", "v-lost", arm.note));
    pane.over.append(make("span", "v-cross"));
    pane.frame.setAttribute("aria-label", sentence(pane));
  }

  function label(pane, line, text) {
    const box = line.getBBox();
    const below = box.y < 0.08 * current.height;
    const span = make("span", "v-label" + (below ? " below" : ""), text);
    span.style.left = clamp(100 * (box.x + box.width / 2) / current.width, 8, 92) + "%";
    span.style.top = 100 * (below ? box.y + box.height : box.y) / current.height + "%";
    pane.over.append(span);
  }

  // The same place in both pictures.
  function cross(event, pane) {
    let x = -1, y = -1;
    if (event && event.pointerType !== "touch") {
      const box = pane.frame.getBoundingClientRect();
      x = (event.clientX - box.left) / box.width;
      y = (event.clientY - box.top) / box.height;
    }
    panes.forEach(function (other) {
      const mark = other.over.querySelector(".v-cross");
      if (!mark) return;
      mark.classList.toggle("seen", other !== pane && x >= 0 && x <= 1 && y >= 0 && y <= 1);
      mark.style.left = 100 * x + "%";
      mark.style.top = 100 * y + "%";
    });
  }

  // ---- words

  function sliceScore(arm, k) {
    const value = arm && arm.slices ? arm.slices[k][state.slice] : null;
    if (value === null) return "–";
    if (value > 0) return value.toFixed(2);
    return current.voxels[k][state.slice] ? "0.00, missed" : "0.00, not in the reference";
  }

  function sentence(pane) {
    const arm = pane.arm < 0 ? null : current.arms[pane.arm];
    const parts = [current.name, view().name, "slice " + (current.slices[state.slice] + 1) + " of " + current.of];
    if (!arm) return parts.concat("reference only").join(", ");
    parts.push(all.arms[pane.arm].name);
    if (!arm.paths) return parts.concat(arm.note).join(", ");
    for (const k of visibleStructures()) {
      if (arm.slices[k][state.slice] !== null) parts.push(all.structures[k] + " slice DSC " + sliceScore(arm, k));
    }
    return parts.join(", ");
  }

  function scores(pane) {
    pane.scores.replaceChildren();
    const arm = pane.arm < 0 ? null : current.arms[pane.arm];
    if (!arm) {
      pane.scores.append(make("p", "note", "The picture and the reference, without a prediction."));
      return;
    }
    const table = make("table");
    const head = make("tr");
    ["", "DSC", "HD95 mm", "mL (reference)", "this slice"].forEach(function (text, k) {
      const cell = make(text ? "th" : "td", k === 3 ? "v-volume" : "", text);
      if (text) cell.scope = "col";
      head.append(cell);
    });
    table.append(make("thead"));
    table.tHead.append(head);
    const body = make("tbody");
    all.structures.forEach(function (name, k) {
      const score = arm.scores[k], row = make("tr");
      const title = make("th", "", name);
      title.scope = "row";
      row.append(title, make("td", "", score.dsc || "–"), make("td", "", score.hd95 || "–"));
      row.append(make("td", "v-volume", (score.volume || "–") + " (" + (score.reference || "–") + ")"));
      const own = make("td", "v-own", "–");
      own.dataset.structure = k;
      row.append(own);
      body.append(row);
      if (arm.paths && score.status && score.status !== "ok") {
        const note = make("tr"), cell = make("td", "v-status", statuses[score.status] || score.status);
        cell.colSpan = 5;
        note.append(cell);
        body.append(note);
      }
    });
    table.append(body);
    pane.scores.append(table);
    if (arm.note && !arm.paths) pane.scores.append(make("p", "v-status", arm.note));
    const outside = arm.outside.map((text, k) => text && text + " of " + all.structures[k]).filter(Boolean);
    if (outside.length) pane.scores.append(make("p", "note", "Predicted outside this picture: " + outside.join(", ") + "."));
  }

  const statuses = {
    pred_empty: "pred_empty: the mask lacks this structure",
    ref_empty_fp: "ref_empty_fp: drawn, but the reference lacks this structure",
    both_empty: "both_empty: neither has this structure",
  };

  function tell() {
    const z = state.slice;
    const found = panes.filter((pane) => pane.arm >= 0).map(function (pane) {
      const arm = current.arms[pane.arm];
      const own = visibleStructures().filter((k) => arm.slices && arm.slices[k][z] !== null);
      return pane.letter + ": " + (own.length ? own.map((k) => all.structures[k] + " " + sliceScore(arm, k)).join(", ") : "–");
    });
    where.textContent = "Slice " + (current.slices[z] + 1) + " of " + current.of + ", " + current.positions[z] + " mm. DSC of the slice, " + found.join("; ");
    slider.setAttribute("aria-valuetext", "slice " + (current.slices[z] + 1) + " of " + current.of + ", " + current.positions[z] + " mm");
    panes.forEach(function (pane) {
      const arm = pane.arm < 0 ? null : current.arms[pane.arm];
      pane.scores.querySelectorAll(".v-own").forEach((cell) => { cell.textContent = sliceScore(arm, Number(cell.dataset.structure)); });
    });
    strip.style.setProperty("--at", (z + 0.5) / count());
  }

  // ---- the strip of slices

  function track(height) {
    return draw("svg", { viewBox: "0 0 " + count() + " " + height, preserveAspectRatio: "none", "aria-hidden": "true" });
  }

  function addRow(name, badge, svg, spoken, faint) {
    const title = make("div", "v-row-name" + (faint ? " faint" : ""));
    title.append(make("span", "", name));
    if (badge) title.append(make("span", "v-badge", badge));
    const line = make("div", "v-row");
    line.setAttribute("role", "img");
    line.setAttribute("aria-label", spoken);
    line.append(svg);
    strip.append(title, line);
  }

  function drawStrip() {
    strip.replaceChildren();
    for (const k of visibleStructures()) {
      const sizes = current.voxels[k], most = Math.max(1, ...sizes);
      const area = track(16);
      sizes.forEach(function (size, z) {
        if (size) area.append(draw("rect", { class: "area", x: z, y: 16 - 15 * size / most, width: 1, height: 15 * size / most }));
      });
      const filled = sizes.filter(Boolean).length;
      addRow((all.structures.length > 1 ? all.structures[k] + ", " : "") + "reference area", "", area, all.structures[k] + ": reference in " + filled + " of " + count() + " slices shown", true);
      current.arms.forEach(function (arm, number) {
        const badge = panes.filter((pane) => pane.arm === number).map((pane) => pane.letter).join("");
        const bars = track(24);
        let missed = 0, extra = 0;
        (arm.slices ? arm.slices[k] : []).forEach(function (value, z) {
          if (value === null) return;
          let bar;
          if (value > 0) {
            bar = draw("rect", { class: "bar", x: z + 0.1, y: 16.5 - 16 * value, width: 0.8, height: 16 * value });
            bar.style.fill = all.arms[number].colour;
          } else {
            const lost = sizes[z] > 0;
            if (lost) missed += 1; else extra += 1;
            bar = draw("rect", { class: lost ? "missed" : "extra", x: z + 0.15, y: 18.5, width: 0.7, height: 4.5 });
          }
          const words = draw("title", {});
          words.textContent = "slice " + (current.slices[z] + 1) + ": " + value.toFixed(2);
          bar.append(words);
          bars.append(bar);
        });
        bars.append(draw("path", { class: "base", d: "M0 16.5h" + count() }));
        const score = arm.scores[k].dsc || "–";
        const spoken = all.arms[number].name + ", " + all.structures[k] + ": " + (arm.slices ? "DSC " + score + ", " + missed + " slices missed, " + extra + " drawn beyond the reference" : arm.note);
        addRow(all.arms[number].short, badge, bars, spoken, false);
        if (!arm.slices) strip.lastChild.append(make("span", "v-none", arm.note));
      });
    }
    strip.append(make("div", "v-cursor"));
  }

  function jump(event) {
    const line = strip.querySelector(".v-row");
    if (!line || (event.type === "pointermove" && !(event.buttons & 1))) return;
    const box = line.getBoundingClientRect();
    if (event.clientX < box.left) return;
    setSlice(Math.floor(count() * (event.clientX - box.left) / box.width));
  }
  strip.addEventListener("pointerdown", jump);
  strip.addEventListener("pointermove", jump);

  // ---- what the reader does

  function setSlice(slice) {
    slice = clamp(slice, 0, count() - 1);
    if (slice === state.slice) return false;
    state.slice = slice;
    slider.value = String(slice);
    paint();
    tell();
    return true;
  }

  let turned = 0;
  function onWheel(event, pane) {
    if (event.ctrlKey || !event.deltaY) return;
    const up = event.deltaY < 0;
    const end = up ? state.slice === count() - 1 : state.slice === 0;
    const inside = pane.stage.contains(document.activeElement);
    if (end && !inside) return;  // the page scrolls on
    event.preventDefault();
    turned = turned * event.deltaY < 0 ? event.deltaY : turned + event.deltaY;
    const step = event.deltaMode === 0 ? 40 : 1;  // pixels, or lines
    if (Math.abs(turned) < step) return;
    turned = 0;
    setSlice(state.slice + (up ? 1 : -1));
  }

  function toggle(name) {
    state.shown[name] = !state.shown[name];
    sync();
  }
  function toggleStructure(k) {
    if (state.off.has(k)) state.off.delete(k); else state.off.add(k);
    sync();
  }
  function sync() {
    root.querySelectorAll("#viewer-layers input").forEach(function (box) {
      box.checked = box.dataset.layer ? state.shown[box.dataset.layer] : !state.off.has(Number(box.dataset.structure));
    });
    root.querySelectorAll("#viewer-views input").forEach((box) => { box.checked = box.value === view().name; });
    byId("viewer-words").textContent = view().words + ".";
    panes.forEach(paintPane);
    drawStrip();
    tell();
  }
  function setView(name) {
    state.view = name;
    paint();
    sync();
  }

  const moves = { ArrowUp: 1, ArrowDown: -1, PageUp: 5, PageDown: -5, Home: -Infinity, End: Infinity };
  root.addEventListener("keydown", function (event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target, pane = panes.find((p) => p.stage.contains(target));
    if (target.tagName === "SELECT") return;  // it has its own use for letters and arrows
    const typed = target.tagName === "INPUT";
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    let done = true;
    if (!typed && key in moves) setSlice(state.slice + moves[key]);
    else if (pane && (key === "ArrowLeft" || key === "ArrowRight")) {
      const options = all.arms.length + 1, step = key === "ArrowLeft" ? -1 : 1;
      setArm(pane, (pane.arm + 1 + step + options) % options - 1);
    } else if (key === "m") {
      const names = current.views.map((v) => v.name);
      setView(names[(names.indexOf(view().name) + 1) % names.length]);
    } else if (key === "r") toggle("reference");
    else if (key === "p") toggle("prediction");
    else if (key === "b") toggle("boxes");
    else if (/^[1-9]$/.test(key) && Number(key) <= all.structures.length && all.structures.length > 1) toggleStructure(Number(key) - 1);
    else done = false;
    if (done) event.preventDefault();
  });

  // ---- setting up

  function option(holderId, type, text, data, checked, onChange, swatch) {
    const label = make("label", "v-option");
    const input = make("input");
    input.type = type;
    input.checked = checked;
    Object.assign(input.dataset, data);
    input.addEventListener("change", onChange);
    label.append(input);
    if (swatch) label.append(make("span", "v-line " + swatch));
    label.append(make("span", "", text));
    byId(holderId).append(label);
    return input;
  }

  function setCase(number) {
    state.at = number;
    current = all.cases[number];
    root.style.setProperty("--ratio", (current.width * current.column) / (current.height * current.row));
    const holderOfViews = byId("viewer-views");
    holderOfViews.replaceChildren();
    current.views.forEach(function (one) {
      const input = option("viewer-views", "radio", one.name, {}, false, () => setView(one.name));
      input.name = "viewer-view";
      input.value = one.name;
    });
    const page = byId("viewer-page");
    page.hidden = !all.pages;
    page.href = current.page;
    page.textContent = (current.thinned > 1 ? "One slice in " + current.thinned + " is here; all are on the" : "The") + " page of " + current.name;
    slider.max = String(count() - 1);
    state.slice = current.start;
    slider.value = String(state.slice);
    if (!state.chosen) panes.forEach((pane, k) => { pane.arm = k < current.pair.length ? current.pair[k] : -1; });
    panes.forEach(function (pane) {
      pane.select.value = String(pane.arm);
      scores(pane);
    });
    paint();
    sync();
  }

  all.cases.forEach((one, k) => picker.append(new Option(one.name + (one.why ? ": " + one.why : ""), String(k))));
  byId("viewer-case-field").hidden = all.cases.length < 2;
  picker.addEventListener("change", () => setCase(Number(picker.value)));
  option("viewer-layers", "checkbox", "reference", { layer: "reference" }, true, () => toggle("reference"), "reference");
  option("viewer-layers", "checkbox", "prediction", { layer: "prediction" }, true, () => toggle("prediction"), "prediction");
  option("viewer-layers", "checkbox", "prompt boxes", { layer: "boxes" }, true, () => toggle("boxes"), "box");
  if (all.structures.length > 1) {
    all.structures.forEach((name, k) => option("viewer-layers", "checkbox", name, { structure: k }, true, () => toggleStructure(k)));
    byId("viewer-digits").append(", ");
    all.structures.slice(0, 9).forEach((_, k) => byId("viewer-digits").append(make("kbd", "", String(k + 1)), " "));
    byId("viewer-digits").append("structure");
  }
  slider.addEventListener("input", () => setSlice(Number(slider.value)));
  root.hidden = false;
  document.documentElement.classList.add("viewing");
  setCase(0);
})();
