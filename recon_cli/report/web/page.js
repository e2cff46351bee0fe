"use strict";
(() => {
  const findings = JSON.parse(document.getElementById("findings").textContent);
  const { layers, severity } = findings;

  // Elements: text only ever becomes a text node.

  function filled(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat(Infinity)) {
      if (child !== null && child !== undefined && child !== "") node.append(child);
    }
    return node;
  }
  const make = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
  const draw = (tag, attributes, ...children) =>
    filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  // A name breaks behind its dots first.
  const named = (name) => make("bdi", {}, name.split(/(?<=\.)/).flatMap((part, place) => (place ? [make("wbr"), part] : [part])));
  const brief = (name, most = 60) => (name.length > most ? `${name.slice(0, most)}\u2026` : name);

  // Numbers

  const MISSING = "\u2013";
  const decimal = (value, digits) => {
    const text = value.toFixed(digits);
    return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "\u2212");
  };
  const shown = (value, digits) => (value === null || value === undefined ? MISSING : decimal(value, digits));
  const percent = (share, digits = 1) =>
    share === null || share === undefined ? MISSING : `${decimal(100 * share, digits)}%`;
  const count = (value) => (value === null || value === undefined ? MISSING : value.toLocaleString("en-US"));
  const cosine = (value) => String(value).replace("-", "\u2212");
  const megabytes = (bytes) => `${decimal(bytes / 2 ** 20, 2)} MB`;
  const times = (ratio) => (ratio === null || ratio === undefined ? MISSING : `${decimal(ratio, 2)} \u00d7`);
  const spread = (figure, digits) =>
    !figure ? MISSING : shown(figure.mean, digits) + (figure.deviation === null ? "" : ` \u00b1 ${shown(figure.deviation, digits)}`);
  const counted = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

  // Tables that can be sorted, and searched where a row is of a layer

  const rowsOfLayers = [];

  function table(caption, columns, rows, { layerOf = null, sorted = null, foot = null, wide = true } = {}) {
    const body = make("tbody");
    const built = rows.map((row) => {
      const line = make("tr", {}, columns.map((column) => cellOf(column, row)));
      if (layerOf) {
        line.tabIndex = -1;
        line.dataset.layer = layerOf(row);
        rowsOfLayers.push(line);
        line.addEventListener("click", () => select(layerOf(row)));
      }
      return { row, line };
    });
    const heads = columns.map((column) => {
      const head = make("th", { scope: "col", class: column.words ? null : "number", title: column.title });
      head.setAttribute("aria-sort", "none");
      const button = make("button", { type: "button" }, column.head);
      button.addEventListener("click", () => {
        const falling = head.getAttribute("aria-sort") === (column.words ? "ascending" : "none");
        sort(column, falling);
      });
      head.append(button);
      return head;
    });
    function sort(column, falling) {
      heads.forEach((head, place) => {
        const state = columns[place] === column ? (falling ? "descending" : "ascending") : "none";
        head.setAttribute("aria-sort", state);
      });
      const sign = falling ? -1 : 1;
      // What is not known stands last, whichever way is sorted.
      const order = (one, other) => {
        const [a, b] = [column.key(one.row), column.key(other.row)];
        const [gone, lost] = [a === null || a === undefined, b === null || b === undefined];
        if (gone || lost) return gone - lost;
        return sign * (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
      };
      body.append(...built.sort(order).map((each) => each.line));
      if (layerOf) enter(body);
    }
    body.append(...built.map((each) => each.line));
    if (sorted) sort(columns[sorted.column], sorted.falling);
    if (layerOf) {
      enter(body);
      body.addEventListener("keydown", (event) => walk(event, body));
    }
    const whole = make("table", {}, make("thead", {}, make("tr", {}, heads)), body, foot ? make("tfoot", {}, foot) : null);
    return scrolled(caption, whole, { wide, reached: Boolean(layerOf) });
  }

  // What may be wider or longer than its place; it can be reached by itself where nothing inside can.
  const scrolled = (caption, whole, { wide = false, reached = false } = {}) =>
    make("div", { class: wide ? "scroll wide" : "scroll", role: "region", tabindex: reached ? null : 0, "aria-label": caption }, whole);

  function cellOf(column, row) {
    const content = column.cell(row);
    if (column.head_of_row) return make("th", { scope: "row", class: "name" }, content);
    if (column.heat) return heat(column.key(row), column.heat, content);
    return make("td", { class: column.words ? "plain" : "number" }, content);
  }

  function heat(rate, most, content) {
    const cell = make("td", { class: "heat" }, content);
    cell.style.setProperty("--share", rate && most ? rate / most : 0);
    return cell;
  }

  const linesIn = (body) => [...body.rows].filter((line) => !line.hidden);

  // One row of a table can be reached with the tab key, the others from there with the arrows.
  function enter(body) {
    const lines = linesIn(body);
    for (const line of body.rows) line.tabIndex = -1;
    if (lines.length) lines[0].tabIndex = 0;
  }

  function walk(event, body) {
    const line = event.target.closest("tr");
    const lines = linesIn(body);
    const place = lines.indexOf(line);
    const goal = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: lines.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") select(Number(line.dataset.layer));
    else if (goal === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    else if (lines[goal]) {
      for (const each of lines) each.tabIndex = -1;
      lines[goal].tabIndex = 0;
      lines[goal].focus();
    }
    event.preventDefault();
  }

  const nameColumn = (more = () => null) => ({
    head: "Layer",
    words: true,
    head_of_row: true,
    key: (layer) => layer.name,
    cell: (layer) => [
      named(layer.name),
      more(layer),
      layer.aliases.length ? make("small", {}, "= ", named(layer.aliases.join(", "))) : null,
    ],
  });
  const column = (head, key, show, more = {}) => ({ head, key, cell: (row) => show(key(row), row), ...more });

  // Charts

  const X_LABEL = 34;
  const STYLES = 6;
  const redraws = [];

  // A picture that is drawn anew whenever the room for it has another width.
  function chart(label, height, paint) {
    const picture = draw("svg", { role: "img", "aria-label": label });
    let width = 0;
    const redraw = () => {
      const wide = Math.round(picture.clientWidth) || 640;
      picture.replaceChildren();
      picture.setAttribute("viewBox", `0 0 ${wide} ${height}`);
      paint(picture, wide, height);
    };
    redraws.push(redraw);
    new ResizeObserver(() => {
      const wide = Math.round(picture.clientWidth);
      if (wide && wide !== width && !matchMedia("print").matches) {
        width = wide;
        redraw();
      }
    }).observe(picture);
    return { picture, redraw };
  }

  const scale = (from, to, low, high) => (value) => low + ((value - from) / (to - from || 1)) * (high - low);

  function ticks(from, to, about) {
    const rough = (to - from) / about || 1;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= rough * 0.999);
    const found = [];
    for (let place = Math.ceil(from / step - 1e-9); place * step <= to + step * 1e-9; place += 1) found.push(place * step + 0);
    return found;
  }

  function axes(picture, box, x, y) {
    for (const value of y.ticks) {
      const at = y.at(value);
      picture.append(
        draw("line", { class: "grid", x1: box.left, x2: box.right, y1: at, y2: at }),
        draw("text", { x: box.left - 6, y: at + 4, "text-anchor": "end" }, y.show(value)),
      );
    }
    picture.append(draw("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
    for (const value of x.ticks) {
      picture.append(draw("text", { x: x.at(value), y: box.bottom + 15, "text-anchor": "middle" }, x.show(value)));
    }
    picture.append(
      draw("text", { x: (box.left + box.right) / 2, y: box.bottom + X_LABEL - 4, "text-anchor": "middle" }, x.label),
      draw("text", { x: box.left - 38, y: box.top - 8 }, y.label),
    );
  }

  // Histograms of cosines

  const edgeOf = (bin, bins) => -1 + (2 * bin) / bins;

  function outline(counts, bins, total, x, y) {
    let path = "";
    const { first, counts: numbers } = counts;
    numbers.forEach((number, place) => {
      const [left, right] = [x(edgeOf(first + place, bins)), x(edgeOf(first + place + 1, bins))];
      path += `${place ? "L" : `M${left.toFixed(1)} ${y(0).toFixed(1)}L`}${left.toFixed(1)} ${y(number / total).toFixed(1)}`;
      path += `L${right.toFixed(1)} ${y(number / total).toFixed(1)}`;
      if (place === numbers.length - 1) path += `L${right.toFixed(1)} ${y(0).toFixed(1)}`;
    });
    return path;
  }

  function bars(counts, bins, total, x, y) {
    const parts = { below: "", above: "" };
    counts.counts.forEach((number, place) => {
      if (!number) return;
      const [left, right] = [edgeOf(counts.first + place, bins), edgeOf(counts.first + place + 1, bins)];
      const cut = Math.min(Math.max(severity, left), right);
      for (const [side, from, to] of [["below", left, cut], ["above", cut, right]]) {
        if (to > from) parts[side] += `M${x(from).toFixed(1)} ${y(0).toFixed(1)}V${y(number / total).toFixed(1)}H${x(to).toFixed(1)}V${y(0).toFixed(1)}Z`;
      }
    });
    return ["above", "below"].map((side) => draw("path", { class: side, d: parts[side] }));
  }

  const totalOf = (counts) => (counts ? counts.counts.reduce((sum, number) => sum + number, 0) : 0);
  const highest = (counts) => Math.max(0, ...counts.counts) / (totalOf(counts) || 1);

  // Sections

  const sections = document.getElementById("sections");
  const links = document.querySelector("nav");

  function section(id, title, about, ...children) {
    sections.append(
      make("section", { id, "aria-labelledby": `${id}-head` }, make("h2", { id: `${id}-head` }, title), make("p", { class: "about" }, about), children),
    );
    links.append(make("a", { href: `#${id}` }, title));
  }

  const below = `cosine below ${cosine(severity)}`;
  const known = (key) => layers.some((layer) => layer[key] !== null);
  const mostOf = (rates) => Math.max(0, ...rates.filter((rate) => rate !== null));

  function ranking() {
    const most = mostOf(layers.map((layer) => layer.rate));
    const columns = [
      column("#", (layer) => layers.indexOf(layer) + 1, count),
      nameColumn((layer) => (layer.is_split ? make("span", { class: "tag" }, "split") : null)),
    ];
    if (known("type")) columns.push(column("Type", (layer) => layer.type, (type) => type || MISSING, { words: true }));
    columns.push(column("Score", (layer) => layer.score, count, { title: `task pairs with a ${below}` }));
    if (known("rate")) {
      columns.push(
        column("Rate", (layer) => layer.rate, (rate) => [gauge(rate, most), percent(rate)], { title: "share of the measured pairs that conflict" }),
        column("95% interval", (layer) => layer.low, (low, layer) => (low === null ? MISSING : `${decimal(100 * low, 1)} to ${percent(layer.high)}`)),
        column("Share", (layer) => layer.share, (share) => percent(share), { title: "of all conflicts" }),
      );
    }
    if (known("gds")) {
      columns.push(
        column("GDS", (layer) => layer.gds, (value) => shown(value, 3), { title: "gradient direction similarity: the mean cosine" }),
        column("GMS", (layer) => layer.gms, (value) => shown(value, 2), { title: "gradient magnitude similarity" }),
      );
    }
    if (known("size")) columns.push(column("Parameters", (layer) => layer.size, count));
    findings.other_rankings.forEach((other, place) => {
      columns.push(column(`# in ${brief(other.name, 24)}`, (layer) => layer.other_places[place], count));
    });
    const apart = findings.other_rankings.map((other) =>
      other.distance === null
        ? `${brief(other.name)} ranks other layers.`
        : `In ${brief(other.name)} a layer stands ${decimal(other.distance, 2)} places from here on average (Eq. 22).`,
    );
    section(
      "ranking",
      "Ranking",
      `The shared layers by how often two tasks' gradients have a ${below}${findings.stage === null ? "" : `, in stage ${findings.stage}`}. A click, or Enter, shows a layer's cosines below. ${apart.join(" ")}`,
      table("Ranking of the layers", columns, layers, { layerOf: (layer) => layers.indexOf(layer), sorted: { column: 0, falling: false } }),
    );
  }

  function gauge(rate, most) {
    const bar = make("span", { class: "gauge", "aria-hidden": "true" });
    bar.style.setProperty("--share", most && rate ? rate / most : 0);
    return bar;
  }

  const inNetwork = () => [...layers].sort((one, other) => (one.position ?? 0) - (other.position ?? 0));
  const place = () => column("#", (layer) => layer.position, count, { title: "place in the network" });

  function heatMap(caption, heads, ratesOf, whole, more = []) {
    const most = mostOf([...layers.flatMap(ratesOf), ...whole]);
    const columns = [place(), nameColumn()];
    heads.forEach((head, at) => columns.push(column(head, (layer) => ratesOf(layer)[at], (rate) => percent(rate), { heat: most })));
    columns.push(...more);
    const foot = make(
      "tr", {}, make("td"), make("th", { scope: "row", class: "name" }, "all of them, as one"),
      whole.map((rate) => heat(rate, most, percent(rate))), more.map(() => make("td")),
    );
    return table(caption, columns, inNetwork(), {
      layerOf: (layer) => layers.indexOf(layer),
      sorted: { column: 0, falling: false },
      foot,
    });
  }

  function stages() {
    const { iterations, trunk, whole } = findings.stages;
    const several = iterations.length > 1;
    const heads = several ? iterations.map((steps, at) => `Stage ${at + 1}\n${counted(steps, "step")}`) : [];
    section(
      "stages",
      several ? "Layers and stages" : "Layers",
      `The share of the pairs with a ${below}, on every layer in the network's order${several ? " and in every stage of training" : ""}.`,
      heatMap("Conflict rates by layer and stage", [...heads, "Whole\nprofile"],
        (layer) => [...(several ? layer.stages : []), layer.whole], [...(several ? trunk : []), whole]),
    );
  }

  let chosenLayer = null;
  const showLayer = [];

  function cosines() {
    const { distributions, trunk_bins: trunkBins, layer_bins: layerBins } = findings;
    const visible = distributions.map((_, place) => place < 3);
    const of = make("select", { id: "of" }, make("option", { value: "" }, "all shared layers, as one"));
    layers.forEach((layer, at) => of.append(make("option", { value: at }, brief(layer.name))));
    const legend = distributions.map((distribution, at) => {
      const box = make("input", { type: "checkbox", checked: visible[at] });
      box.addEventListener("change", () => {
        visible[at] = box.checked;
        big.redraw();
      });
      const line = draw("svg", { viewBox: "0 0 34 10", "aria-hidden": "true" }, draw("line", { class: `curve series-${at % STYLES}`, x1: 0, x2: 34, y1: 5, y2: 5 }));
      return make("label", {}, box, line, named(brief(distribution.name)));
    });
    const caption = make("figcaption");
    const big = chart("Histogram of cosines", 300, (picture, width, height) => {
      const at = of.value === "" ? null : Number(of.value);
      const bins = at === null ? trunkBins : layerBins;
      const curves = distributions
        .map((distribution, series) => ({ series, name: distribution.name, counts: at === null ? distribution.trunk : distribution.layers[at] }))
        .filter((curve) => visible[curve.series] && totalOf(curve.counts));
      const edges = curves.flatMap(({ counts }) => [edgeOf(counts.first, bins), edgeOf(counts.first + counts.counts.length, bins)]);
      const low = Math.max(-1, Math.min(Math.floor((Math.min(0, severity, ...edges) - 0.02) * 10) / 10, -0.1));
      const high = Math.min(1, Math.max(Math.ceil((Math.max(0, ...edges) + 0.02) * 10) / 10, 0.1));
      const most = Math.max(0.001, ...curves.map(({ counts }) => highest(counts)));
      const box = { left: 46, right: width - 12, top: 24, bottom: height - X_LABEL };
      const x = scale(low, high, box.left, box.right);
      const y = scale(0, most * 1.05, box.bottom, box.top);
      axes(picture, box,
        { ticks: ticks(low, high, width / 80), at: x, show: (value) => cosine(Number(value.toFixed(6))), label: "cosine of two tasks' gradients" },
        { ticks: ticks(0, most, 4), at: y, show: (value) => percent(value, most < 0.04 ? 1 : 0), label: `share of the pairs, in bins of ${2 / bins}` });
      if (curves.length === 1) picture.append(...bars(curves[0].counts, bins, totalOf(curves[0].counts), x, y));
      else for (const { series, counts } of curves) picture.append(draw("path", { class: `curve series-${series % STYLES}`, d: outline(counts, bins, totalOf(counts), x, y) }));
      picture.append(
        draw("line", { class: "mark", x1: x(severity), x2: x(severity), y1: box.top, y2: box.bottom }),
        x(severity) - box.left > 150
          ? draw("text", { class: "mark-text", x: x(severity) - 5, y: box.top + 10, "text-anchor": "end" }, `conflicts: below ${cosine(severity)}`)
          : draw("text", { class: "mark-text", x: x(severity) + 5, y: box.top + 10 }, `below ${cosine(severity)}`),
      );
      const name = at === null ? "all shared layers, as one" : layers[at].name;
      const pairs = curves.map((curve) => `${distributions.length > 1 ? `${brief(curve.name)} ` : ""}${counted(totalOf(curve.counts), "pair")}`);
      caption.replaceChildren(named(brief(name, 200)), pairs.length ? `: ${pairs.join(", ")}` : ": not measured");
      picture.setAttribute("aria-label", `Histogram of cosines: ${brief(name)}`);
    });
    of.addEventListener("change", () => select(of.value === "" ? null : Number(of.value)));
    showLayer.push(() => {
      of.value = chosenLayer === null ? "" : chosenLayer;
      big.redraw();
    });
    section(
      "cosines",
      "Cosines",
      "How the cosines of two tasks' gradients are distributed: the further left, the more they point against each other.",
      make("div", { class: "controls" }, layers.length ? [make("label", { for: "of" }, "of"), of] : null), distributions.length > 1 ? make("div", { class: "controls legend" }, legend) : null,
      make("figure", {}, caption, big.picture),
      distributions.some((distribution) => distribution.layers.some(Boolean)) ? [make("h3", {}, "Layer by layer, in ranked order"), minis(distributions, layerBins)] : null,
    );
  }

  // The same in bins that are wider by a factor.
  function coarser({ first, counts }, factor) {
    const from = Math.floor(first / factor);
    const sums = [];
    counts.forEach((number, place) => {
      const at = Math.floor((first + place) / factor) - from;
      sums[at] = (sums[at] || 0) + number;
    });
    return { first: from, counts: sums };
  }

  function minis(distributions, bins) {
    const [width, height] = [150, 52];
    const of = distributions.filter((distribution) => distribution.layers.some(Boolean));
    const shownOf = of.length > 1 ? [of[0], of.at(-1)] : of;
    const all = shownOf.flatMap((distribution) => distribution.layers.filter(totalOf));
    const low = Math.min(severity, 0, ...all.map(({ first }) => edgeOf(first, bins)));
    const high = Math.max(0, ...all.map(({ first, counts }) => edgeOf(first + counts.length, bins)));
    // No bar is to be narrower than three pixels.
    const factor = [1, 2, 4].find((wider) => (width * wider * 2) / bins / (high - low) >= 3) || 5;
    const x = scale(low, high, 0, width);
    const grid = make("div", { class: "minis" });
    layers.forEach((layer, at) => {
      const [own, other] = shownOf.map(({ layers: counts }) => (totalOf(counts[at]) ? coarser(counts[at], factor) : null));
      const drawn = [own, other].filter(Boolean);
      if (!drawn.length) return;
      const y = scale(0, Math.max(...drawn.map(highest)), height - 1, 2);
      const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
        own ? bars(own, bins / factor, totalOf(own), x, y) : null,
        draw("line", { class: "grid", x1: x(0), x2: x(0), y1: 0, y2: height }),
        other ? draw("path", { class: "curve", d: outline(other, bins / factor, totalOf(other), x, y) }) : null,
        draw("line", { class: "axis", x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5 }));
      const figure = make("figure", { "data-layer": at, title: brief(layer.name, 200) }, make("figcaption", {}, named(brief(layer.name)), make("span", { class: "number" }, percent(layer.whole))), picture);
      figure.addEventListener("click", () => select(at));
      rowsOfLayers.push(figure);
      grid.append(figure);
    });
    const [from, to] = [low, high].map((end) => cosine(Number(end.toFixed(2))));
    return [
      make("p", { class: "about" }, `Cosines from ${from} to ${to}, with a line at 0; in colour below ${cosine(severity)}, in percent beside the name.`,
        shownOf.length > 1 ? [" Bars are ", named(brief(shownOf[0].name)), ", lines ", named(brief(shownOf[1].name)), "."] : null),
      layers.length > 60 ? scrolled("Histograms of the layers", grid, { wide: true }) : grid,
    ];
  }

  function tasks() {
    const { tasks: each, matrix } = findings.tasks;
    const short = each.length > 8;
    const parts = [];
    if (matrix) parts.push(conflictMatrix(findings.tasks, short));
    const columns = [
      { ...column("Task", (task) => task.name, (name) => named(name), { words: true }), head_of_row: true },
      column("Measured steps", (task) => task.iterations, count),
      column("Mean gradient norm", (task) => task.norm, (norm) => (norm === null ? MISSING : String(Number(norm.toPrecision(4))))),
    ];
    parts.push(table("Tasks", columns, each, { wide: false }));
    const often = matrix ? `How often each two tasks have a ${below}${short ? ", in percent" : ""}, over all shared layers as one vector${findings.tasks.layers.length ? " or on one of them" : ""}; and how` : "How";
    section("tasks", "Tasks", `${often} large their gradients are, over all of them.`,
      make("div", { class: short ? null : "pair" }, parts), findings.courses ? courses(findings.courses) : null);
  }

  // How often each two tasks conflict, of all shared layers as one or of the layer that is chosen.
  function conflictMatrix({ matrix, layers: ofLayers }, short) {
    const names = matrix.tasks;
    const most = mostOf([...matrix.rates.flat(), ...ofLayers.flatMap((layer) => (layer ? layer.per_mille : [])).map((rate) => (rate === null ? null : rate / 1000))]);
    const heads = () => names.map((name, at) => make("th", { scope: "col", class: "number", "aria-label": name }, short ? String(at + 1) : named(brief(name, 24))));
    const line = (row, at) =>
      make("tr", {}, make("th", { scope: "row", class: "name" }, short ? `${at + 1} ` : null, named(names[at])),
        row.map((rate, other) => (at === other ? make("td", { class: "number" }) : heat(rate, most, short && rate !== null ? decimal(100 * rate, 0) : percent(rate)))));
    const of = make("select", { id: "between" }, make("option", { value: "" }, "all shared layers, as one"));
    ofLayers.forEach((layer, at) => layer && of.append(make("option", { value: at }, brief(layers[at].name))));
    const place = make("div");
    const show = () => {
      of.value = chosenLayer !== null && ofLayers[chosenLayer] ? chosenLayer : "";
      const layer = of.value === "" ? null : ofLayers[of.value];
      const rates = layer ? square(layer.per_mille, names.length) : matrix.rates;
      const name = layer ? layers[of.value].name : "all shared layers, as one";
      place.replaceChildren(
        make("p", { class: "about printed" }, named(brief(name, 200)), ":"),
        scrolled(`Share of the measured steps on which two tasks conflict: ${brief(name)}`, make("table", { class: "matrix" },
          make("thead", {}, make("tr", {}, make("td"), heads())), make("tbody", {}, rates.map(line)))),
        ...groups(layer ? layer.groups : matrix.groups, names));
    };
    of.addEventListener("change", () => select(of.value === "" ? null : Number(of.value)));
    if (ofLayers.length) showLayer.push(show);
    show();
    const left = layers.length - ofLayers.length;
    return make("div", {},
      ofLayers.length ? make("div", { class: "controls" }, make("label", { for: "between" }, "on"), of) : null,
      ofLayers.length && left ? make("p", { class: "about" }, `Of the first ${counted(ofLayers.length, "layer")} of the ranking; `, make("code", {}, "recon tasks --layer"), ` shows the other ${count(left)}.`) : null,
      place);
  }

  // From shares per mille of each two, (0, 1), (0, 2), ..., to a symmetric matrix.
  function square(perMille, size) {
    const rates = Array.from({ length: size }, () => Array(size).fill(null));
    let at = 0;
    for (let one = 0; one < size; one += 1) {
      for (let other = one + 1; other < size; other += 1, at += 1) {
        rates[one][other] = rates[other][one] = perMille[at] === null ? null : perMille[at] / 1000;
      }
    }
    return rates;
  }

  function groups(found, names) {
    if (!found) return [];
    const { members, limit, beyond_chance: beyond } = found;
    return [
      make("p", { class: "about" }, `Suggested groups: no two tasks of one conflict more often than two tasks do on average, ${percent(limit)}.`,
        beyond ? null : " The tasks differ by no more than chance explains, so the groups mean little."),
      make("ol", { class: "groups" }, members.map((group) => make("li", {}, group.map((task, at) => [at ? ", " : null, named(names[task])])))),
    ];
  }

  // The measures over time: the smoothed line over the faint values of each window.
  function courses({ ends, last_iterations: last, lines }) {
    const figures = lines.map(({ measure, feature, values, smoothed, last: end }) => {
      const known = values.filter((value) => value !== null);
      const { picture } = chart(`${measure} over time${feature === null ? "" : `: ${brief(feature)}`}`, 210, (drawing, width, height) => {
        const box = { left: 46, right: width - 14, top: 24, bottom: height - X_LABEL };
        const [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
        const room = (high - low) * 0.05 || Math.abs(high) * 0.05 || 0.05;
        const x = scale(0, ends.at(-1), box.left, box.right);
        const y = scale(low - room, high + room, box.bottom, box.top);
        axes(drawing, box,
          { ticks: ticks(0, ends.at(-1), width / 100).filter(Number.isInteger), at: x, show: count, label: "measured steps" },
          { ticks: ticks(low - room, high + room, 5), at: y, show: (value) => cosine(Number(value.toPrecision(6))), label: measure });
        for (const [style, row] of [["raw", values], ["curve series-0", smoothed]]) {
          const path = row.map((value, at) => (value === null ? "" : `${at && row[at - 1] !== null ? "L" : "M"}${x(ends[at]).toFixed(1)} ${y(value).toFixed(1)}`)).join("");
          drawing.append(draw("path", { class: style, d: path }));
        }
      });
      return make("figure", {}, make("figcaption", {}, measure, feature === null ? null : [" at ", named(brief(feature))], `: ${shown(end, 3)} at the end`), picture);
    });
    return [
      make("h3", {}, "Over time"),
      make("p", { class: "about" }, `GDS, the mean cosine, and GMS, how alike the gradients are in magnitude, of all shared layers as one vector${lines.some((line) => line.feature !== null) ? "; FD, the entropy of the tasks' saliencies at a shared representation" : ""}. The line is the mean over a tenth of the profile up to there; at the end is the mean over the last ${counted(last, "measured step")}.`),
      make("div", { class: "pair courses" }, figures),
    ];
  }

  function costs() {
    const { costs: known, splits } = findings;
    const parts = [];
    if (known) parts.push(...curves(known, splits));
    if (splits.length) {
      parts.push(make("h3", {}, splits.length > 1 ? "Splits that were made" : "The split that was made"), table("Splits", [
        { ...column("Split", (split) => split.name, (name) => named(name), { words: true }), head_of_row: true },
        column("Chosen by", (split) => split.policy, (policy) => named(policy), { words: true }),
        column("Layers", (split) => split.layers, count),
        column("Conflicts covered", (split) => split.covered, (share) => percent(share)),
        column("Parameters", (split) => split.after, count),
        column("More", (split) => (split.after - split.before) / (split.before || 1), (share) => `+${percent(share, 2)}`),
        column("Size", (split) => split.bytes_after, megabytes),
        column("Operations", (split) => split.operations, times),
      ], splits));
    }
    section("costs", "Cost of a split", "What it costs to split the first K layers of the ranking for every task: the conflicts that these layers hold against the parameters that are added, and the operations of a forward pass. A layer that is split early parts the tasks' streams there, and everything behind it runs once for every task.", parts);
  }

  function curves({ shared_parameters: shared, steps, tasks: number }, splits) {
    const added = (step) => step.added_parameters / (shared || 1);
    let k = findings.chosen;
    const smallest = Math.min(...steps.map(added).filter((share) => share > 0), 1);
    const bounds = [10 ** Math.floor(Math.log10(smallest)), 10 ** Math.ceil(Math.log10(Math.max(added(steps.at(-1)), smallest * 10)))];
    const covering = chart("Conflicts covered against parameters added", 280, (picture, width, height) => {
      const box = { left: 46, right: width - 14, top: 24, bottom: height - X_LABEL };
      const along = scale(Math.log10(bounds[0]), Math.log10(bounds[1]), box.left, box.right);
      const x = (share) => along(Math.log10(Math.max(share, bounds[0])));
      const y = scale(0, 1, box.bottom, box.top);
      const powers = [];
      for (let power = Math.log10(bounds[0]); power <= Math.log10(bounds[1]) + 1e-9; power += 1) powers.push(10 ** power);
      axes(picture, box,
        { ticks: powers, at: x, show: (share) => `${Number((100 * share).toPrecision(1))}%`, label: "parameters added, of the shared ones" },
        { ticks: [0, 0.2, 0.4, 0.6, 0.8, 1], at: y, show: (share) => percent(share, 0), label: "conflicts covered" });
      const line = steps.map((step, at) => `${at ? "L" : "M"}${x(added(step)).toFixed(1)} ${y(step.covered).toFixed(1)}`).join("");
      picture.append(draw("path", { class: "curve series-0", d: line }));
      steps.forEach((step, at) => picture.append(draw("circle", { class: "dot", cx: x(added(step)), cy: y(step.covered), r: steps.length > 100 ? 1 : 2 },
        draw("title", {}, `K = ${at + 1}: ${percent(step.covered)} for ${percent(added(step), 2)}`))));
      for (const split of splits) {
        if (split.covered === null) continue;
        const [cx, cy] = [x((split.after - split.before) / (shared || 1)), y(split.covered)];
        picture.append(draw("path", { class: "made", d: `M${cx - 4} ${cy - 4}l8 8m0 -8l-8 8` }, draw("title", {}, `${brief(split.name)}: ${percent(split.covered)}`)));
      }
      picture.append(draw("circle", { class: "chosen", cx: x(added(steps[k - 1])), cy: y(steps[k - 1].covered), r: 5 }));
    });
    const drawn = [covering];
    const figures = [make("figure", {}, make("figcaption", {}, `As K grows from left to right; the scale is logarithmic${splits.some((split) => split.covered !== null) ? "; crosses are the splits below" : ""}`), covering.picture)];
    if (steps[0].operations !== null) {
      const running = chart("Operations at every K", 280, (picture, width, height) => {
        const box = { left: 46, right: width - 14, top: 24, bottom: height - X_LABEL };
        const x = scale(0, steps.length, box.left, box.right);
        const top = Math.max(1.1, Math.ceil(10 * steps.at(-1).operations) / 10);
        const y = scale(1, top, box.bottom, box.top);
        axes(picture, box,
          { ticks: ticks(0, steps.length, 8).filter(Number.isInteger), at: x, show: count, label: "K layers split" },
          { ticks: ticks(1, top, 5), at: y, show: (value) => `${Number(value.toFixed(2))} \u00d7`, label: "operations of the shared network" });
        let path = `M${x(0)} ${y(1)}`;
        steps.forEach((step, at) => { path += `H${x(at + 1).toFixed(1)}V${y(step.operations).toFixed(1)}`; });
        picture.append(draw("path", { class: "curve series-0", d: path }), draw("circle", { class: "chosen", cx: x(k), cy: y(steps[k - 1].operations), r: 5 }));
      });
      drawn.push(running);
      figures.push(make("figure", {}, make("figcaption", {}, `Of a forward pass, relative to those of the shared network; at most ${number} \u00d7`), running.picture));
    }
    const slider = make("input", { id: "k", type: "range", min: 1, max: steps.length, value: k });
    const reading = make("output", { class: "reading", for: "k" });
    const read = () => {
      const step = steps[k - 1];
      const last = layers[k - 1];
      reading.replaceChildren(
        `K = ${k}: ${percent(step.covered)} of the conflicts, +${count(step.added_parameters)} parameters (${percent(added(step), 2)}, ${megabytes(step.added_bytes)})`,
        step.operations === null ? "" : `, ${times(step.operations)} the operations`, "; the last is ", named(brief(last.name)));
    };
    slider.addEventListener("input", () => {
      k = Number(slider.value);
      read();
      for (const each of drawn) each.redraw();
    });
    read();
    const rows = steps.map((step, at) => ({ ...step, k: at + 1, layer: layers[at] }));
    const every = table("Cost at every K", [
      column("K", (row) => row.k, count),
      { head: "Last layer", words: true, head_of_row: true, key: (row) => row.layer.name, cell: (row) => named(row.layer.name) },
      column("Conflicts covered", (row) => row.covered, (share) => percent(share)),
      column("Split parameters", (row) => row.split_parameters, count),
      column("Of the shared", (row) => row.split_parameters / (shared || 1), (share) => percent(share, 2)),
      column("Added parameters", (row) => row.added_parameters, count),
      column("Added size", (row) => row.added_bytes, megabytes),
      column("Operations", (row) => row.operations, times),
    ], rows, { sorted: { column: 0, falling: false } });
    return [
      make("div", { class: "pair" }, figures),
      make("div", { class: "controls" }, make("label", { for: "k" }, "K"), slider),
      make("p", {}, reading),
      make("details", {}, make("summary", {}, "Every K as a table"), every),
    ];
  }

  function changes() {
    const { changes: changed, runs } = findings;
    const parts = [];
    if (changed) {
      const bound = cosine(changed.bound);
      parts.push(table("Runs against the first", [
        { ...column("Run", (run) => run.name, (name) => named(name), { words: true }), head_of_row: true },
        column("Pairs", (run) => run.pairs, count),
        ...changed.intervals.map((name, at) => column(name, (run) => run.masses[at], (share) => percent(share, 2), { title: "share of the cosines in this interval" })),
        column(`Below ${bound}`, (run) => run.below, (share, run) => `${percent(share, 2)} (${decimal(100 * run.low, 1)} to ${percent(run.high)})`, { title: "with its 95% interval" }),
        column("Reduction", (run) => run.reduction, (value, run) => (value === null ? MISSING : `${decimal(value, 2)}% (${decimal(run.reduction_low, 1)} to ${decimal(run.reduction_high, 1)}%)`), { title: "100 (1 \u2212 share / share in the first run), with its 95% interval" }),
        column("GDS", (run) => run.gds, (value) => shown(value, 3)),
      ], changed.runs));
    }
    if (runs.length > 1 && layers.length) {
      const names = runs.map((run) => brief(run.name, 24));
      const last = (layer) => (layer.runs[0] === null || layer.runs[1] === null ? null : layer.runs[1] - layer.runs[0]);
      const difference = column(`Change\n${names[1]}`, last, (value) => (value === null ? MISSING : `${value > 0 ? "+" : ""}${decimal(100 * value, 1)}`), { title: "percentage points" });
      parts.push(make("h3", {}, "Layer by layer"), make("p", { class: "about" }, `The share of the pairs with a ${below}; a dash where the tasks do not share the layer any more.`),
        heatMap("Conflict rates by layer and run", names, (layer) => layer.runs, runs.map((run) => run.rate), [difference]));
    }
    section("changes", "Before and after", `How conflicts are distributed in training runs, of which the first is the baseline${changed ? `: cosines of ${changed.of}` : ""}. A cosine below the bound is a conflict that may be reduced.`, parts);
  }

  function outcomes() {
    const { criteria, runs, which, has_delta_m: hasDelta } = findings.outcomes;
    const columns = [{ ...column("Way of training", (run) => run.name, (name) => named(name), { words: true }), head_of_row: true }];
    criteria.forEach((criterion, at) => {
      columns.push(column(`${brief(criterion.task, 24)}\n${brief(criterion.name, 24)}`, (run) => run.figures[at]?.mean, (_, run) => spread(run.figures[at], 4), { title: `${criterion.better} is better` }));
    });
    columns.push(column("#P", (run) => run.bytes, megabytes));
    if (runs.length > 1) {
      const signed = (figure) => (figure ? `${figure.mean > 0 ? "+" : ""}${spread(figure, 2)}%` : MISSING);
      columns.push(
        column("Operations", (run) => run.operations, times),
        column("Time", (run) => run.seconds, times),
        column("Improvement", (run) => run.improvement?.mean, (_, run) => signed(run.improvement), { title: "over the first; above 0 is better" }),
      );
      if (hasDelta) columns.push(column("\u0394m", (run) => run.delta_m?.mean, (_, run) => signed(run.delta_m), { title: "over single-task networks; above 0 is better" }));
    }
    section("outcomes", "Did it help?", `Every task's figures on the validation data, ${which === "last" ? "after the last step" : "at each seed's best evaluation"}, mean \u00b1 standard deviation over ${counted(runs[0].seeds, "seed")}; improvements in percent, above 0 is better.`, table("Results", columns, runs));
  }

  // What holds for the whole page

  function select(at) {
    chosenLayer = at === chosenLayer ? null : at;
    for (const line of rowsOfLayers) {
      if (Number(line.dataset.layer) === chosenLayer) line.setAttribute("aria-current", "true");
      else line.removeAttribute("aria-current");
    }
    for (const show of showLayer) show();
  }

  const field = document.getElementById("search");
  const found = document.getElementById("found");

  function search() {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = layers.map((layer) => {
      const text = [layer.name, ...layer.aliases, layer.type || ""].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    for (const line of rowsOfLayers) line.hidden = !fits[Number(line.dataset.layer)];
    for (const body of new Set(rowsOfLayers.map((line) => line.closest("tbody")))) if (body) enter(body);
    found.value = words.length ? `${fits.filter(Boolean).length} of ${counted(layers.length, "layer")}` : "";
  }

  field.addEventListener("input", search);
  document.addEventListener("keydown", (event) => {
    const writing = event.target.closest && event.target.closest("input, select, textarea");
    if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      field.focus();
      field.select();
    } else if (event.key === "Escape" && field.value) {
      field.value = "";
      search();
    }
  });

  const theme = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const tell = () => theme.setAttribute("aria-pressed", isDark());
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    tell();
  });
  dark.addEventListener("change", tell);
  tell();

  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });

  if (layers.length) ranking();
  if (layers.length && findings.stages) stages();
  if (findings.distributions.length) cosines();
  if (findings.tasks) tasks();
  if (findings.costs || findings.splits.length) costs();
  if (findings.changes || (findings.runs.length > 1 && layers.length)) changes();
  if (findings.outcomes) outcomes();
  links.append(make("a", { href: "#source" }, "Source"));
  for (const node of document.querySelectorAll("label[for='search'], #search")) node.hidden = !layers.length;
  document.getElementById("bar").hidden = false;
  for (const redraw of redraws) redraw();
})();
