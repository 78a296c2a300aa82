// The page itself: a comparison where there are several runs, and the parts of each run that are known.

const DATA = JSON.parse(document.getElementById("data").textContent);

const tile = (name, value, more = null, kind = "") =>
  element("div", { class: "tile" }, element("div", { class: "name" }, name),
    element("div", { class: `value ${kind}` }, value), more ? element("div", { class: "more" }, more) : null);

const tiles = (run) => {
  const { headline: line, inspection: found } = run;
  const made = [];
  if (line.metric) {
    const first = run.training.epochs.find((epoch) => known(epoch.values[line.metric[0]]));
    const before = first && first.values[line.metric[0]];
    made.push(tile(line.metric[0], show.number(line.metric[1]), `${show.number(before)} at the first epoch's end`));
  }
  if (known(line.sparsity)) made.push(tile("zeros in ternary layers", show.percent(line.sparsity)));
  if (known(line.weight_bytes)) {
    const times = line.float32_bytes / line.weight_bytes;
    made.push(tile("weights", show.bytes(line.weight_bytes), `${show.number(times, 3)} times smaller than in float32`));
  }
  if (found && found.kind === "artifact") made.push(tile("on the device", show.bytes(line.bytes), "code, weights, metadata"));
  if (known(line.milliseconds)) {
    const others = Object.entries(line.faster).sort(([, a], [, b]) => a - b);
    const word = others.length ? compared(...others[0]) : null;
    made.push(tile("latency, median", show.milliseconds(line.milliseconds), word));
  }
  for (const one of line.budgets) {
    const measured = known(one.measured) ? `, ${show.number(one.measured)} measured` : "";
    made.push(tile(`budget ${one.name}`, show.number(one.estimate), `estimated, of ${show.number(one.limit)}${measured}`,
      Math.max(one.estimate, one.measured ?? 0) <= one.limit * (1 + 1e-6) ? "good" : "bad"));
  }
  const details = found?.details ?? {};
  if (details.verification) {
    const report = details.verification;
    made.push(tile("verified", report.passed ? "yes" : "no", `${report.runs} inputs, ${report.where}`, report.passed ? "good" : "bad"));
  } else if (found?.kind === "artifact") made.push(tile("verified", "no", details.unverified, "bad"));
  if (details.target) made.push(tile("target", show.text(details.target.name), show.text(details.target.architecture)));
  return element("div", { class: "tiles" }, made);
};

const compared = (name, ratio) =>
  ratio >= 1 ? `${show.number(ratio, 3)} times faster than ${name}, the next` : `${show.number(1 / ratio, 3)} times slower than ${name}, the fastest`;

// Bytes from the float network to what a device stores: what each part saves or adds.
const waterfall = (run) => {
  const { layers, files, totals, kind } = run.inspection;
  if (!totals.all.weights) return null;
  const saved = (wanted) => layers.filter(wanted).reduce((sum, layer) =>
    sum + 4 * layer.shape.reduce((a, b) => a * b, 1) - layer.bytes, 0);
  const ternary = (layer) => layer.kind === "ternary";
  const parts = [["float32 weights", totals.all.float32_bytes, true]];
  parts.push(["ternary layers", -saved(ternary), false], ["other layers", -saved((layer) => !ternary(layer)), false]);
  parts.push(["weights as stored", totals.all.bytes, true]);
  if (kind === "artifact") {
    const weights = files["weights.npz"] ?? 0; // the C form has them in its code
    parts.push(["biases, scales, format", (weights || totals.all.bytes) - totals.all.bytes, false]);
    parts.push(["code and metadata", run.headline.bytes - (weights || totals.all.bytes), false]);
    parts.push(["on the device", run.headline.bytes, true]);
  }
  let level = 0;
  const bars = parts.map(([, size, whole]) => {
    const from = whole ? 0 : level;
    level = whole ? size : level + size;
    return [from, level];
  });
  const step = 2 ** Math.ceil(Math.log2(Math.max(...bars.flat()) / 4)); // whole numbers of KiB on the axis
  const colors = parts.map(([, size, whole]) => (whole ? COLORS[0] : size < 0 ? COLORS[2] : COLORS[1]));
  const word = ([, size, whole]) => (whole ? show.bytes(size) : `${size < 0 ? "−" : "+"}${show.bytes(Math.abs(size))}`);
  return figure({
    title: "Bytes, from float32 to stored",
    note: "Blue bars are sums, green ones what is saved, orange ones what is added.",
    draw: () => ({
      config: barConfig(parts.map(([name]) => name), [{ label: "bytes", data: bars, backgroundColor: colors }],
        axis("bytes", { beginAtZero: true, ticks: { stepSize: step, callback: (value) => show.bytes(value) } }),
        (item) => word(parts[item.dataIndex])),
      head: ["part", "bytes"], rows: parts.map((part) => [part[0], word(part)]), label: "Bytes, from float32 to stored",
    }),
  });
};

const measurements = (run) => run.benches.flatMap((bench, place) => bench.results.map((entry, index) => ({
  key: `${place}.${index}`, bench, entry,
  text: `${bench.board ?? bench.machine?.cpu ?? "this machine"}, ${entry.threads} thread${entry.threads > 1 ? "s" : ""}`,
})));

const latencies = (run) => {
  const found = measurements(run).filter(({ entry }) => entry.engines.length);
  if (!found.length) return null;
  return figure({
    title: "Latency", note: "Medians of interleaved rounds; whiskers from the first to the third quartile.",
    height: 90 + 34 * Math.max(...found.map(({ entry }) => entry.engines.length)),
    choices: [{ label: "machine and threads", options: found.map(({ key, text }) => [key, text]) }],
    draw: (key) => {
      const { entry, text } = found.find((one) => one.key === key);
      const rows = entry.engines;
      const ratio = (row) => (row.name === "tern" ? "" : `${show.number(row.ratio, 3)} times ours`);
      const set = {
        label: "median", data: rows.map((row) => row.median_ms), spread: rows.map((row) => [row.q25_ms, row.q75_ms]),
        backgroundColor: rows.map((row) => (row.name === "tern" ? OURS : OTHERS)),
      };
      const config = barConfig(rows.map((row) => row.name), [set], axis("milliseconds", { beginAtZero: true, suggestedMax: Math.max(...rows.map((row) => row.q75_ms)) }),
        (item) => `${show.milliseconds(rows[item.dataIndex].median_ms)} ${ratio(rows[item.dataIndex])}`);
      return {
        config: { ...config, plugins: [whiskers] }, label: `Latency on ${text}`,
        head: ["engine", "median ms", "min ms", "ratio", "load s", "own memory", "file", "mJ a run"],
        rows: rows.map((row) => [row.name, show.number(row.median_ms), show.number(row.min_ms), ratio(row),
          show.number(row.load_seconds, 3), show.bytes(row.own_rss_bytes), show.bytes(row.file_bytes),
          show.number(row.millijoules, 3)]),
      };
    },
  });
};

const layerTimes = (run) => {
  const found = measurements(run).filter(({ entry }) => entry.steps.length);
  if (!found.length) return null;
  return figure({
    title: "Time by layer", note: "The slowest steps; one color a kernel.", height: 460,
    choices: [{ label: "machine and threads", options: found.map(({ key, text }) => [key, text]) }],
    draw: (key) => {
      const { entry, text } = found.find((one) => one.key === key);
      const rows = [...entry.steps].sort((a, b) => b.us - a.us).slice(0, 20);
      const kernels = [...new Set(rows.map((row) => row.kernel))];
      const sets = kernels.map((kernel, index) => ({
        label: kernel, backgroundColor: COLORS[index % COLORS.length], skipNull: true, stack: "time",
        data: rows.map((row) => (row.kernel === kernel ? row.us : null)),
      }));
      const config = barConfig(rows.map((row) => row.name), sets, axis("microseconds", { stacked: true, beginAtZero: true }),
        (item) => `${show.number(rows[item.dataIndex].us, 3)} µs, ${show.percent(rows[item.dataIndex].share)}`, true);
      config.options.scales.y.stacked = true;
      return {
        config, label: `Time by layer on ${text}`, head: ["step", "kernel", "µs", "share", "of the ceiling"],
        rows: rows.map((row) => [row.name, row.kernel, show.number(row.us, 3), show.percent(row.share), show.percent(row.ceiling_share, 0)]),
      };
    },
  });
};

const history = (run) => {
  const epochs = run.training?.epochs ?? [];
  const named = [...run.metrics, "ternary/sparsity", "ternary/entropy", "ternary/flips"]
    .filter((name) => epochs.some((epoch) => known(epoch.values[name])));
  if (epochs.length < 2 || !named.length) return null;
  const line = (name, index) => ({
    label: name, data: epochs.map((epoch) => epoch.values[name] ?? null), borderColor: COLORS[index], backgroundColor: COLORS[index],
    borderDash: index ? [6, 3] : [], yAxisID: index ? "right" : "y", spanGaps: true, pointRadius: epochs.length > 50 ? 0 : 3,
  });
  const options = named.map((name) => [name, name]);
  return figure({
    title: "Training", note: "Values at the end of each epoch, the solid line on the left axis, the dashed one on the right.",
    choices: [{ label: "left axis", options, initial: named[0] },
      { label: "right axis", options, initial: named.find((name) => name === "ternary/sparsity") ?? named[named.length - 1] }],
    draw: (left, right) => ({
      config: {
        type: "line",
        data: { labels: epochs.map((epoch) => epoch.epoch), datasets: [line(left, 0), ...(right === left ? [] : [line(right, 1)])] },
        options: {
          interaction: { mode: "index", intersect: false },
          scales: { x: axis("epoch"), y: axis(left), ...(right === left ? {} : { right: axis(right, { position: "right", grid: { drawOnChartArea: false } }) }) },
        },
      },
      head: ["epoch", left, right], label: `${left} and ${right} over the epochs`,
      rows: epochs.map((epoch) => [epoch.epoch, show.number(epoch.values[left]), show.number(epoch.values[right])]),
    }),
  });
};

// A layer's latent weights, by the code that each has become.
const histogram = (layer) => {
  const { edges, counts } = layer.histogram;
  const middle = edges.slice(1).map((edge, index) => (edge + edges[index]) / 2);
  const sets = [["−1", 3], ["0", 7], ["+1", 0]].map(([label, color], index) => ({
    label, data: counts[index], backgroundColor: COLORS[color], stack: "codes", barPercentage: 1, categoryPercentage: 1,
  }));
  return figure({
    title: "Latent weights by their code", height: 200,
    draw: () => ({
      config: {
        type: "bar", data: { labels: middle.map((value) => show.number(value, 2)), datasets: sets },
        options: { scales: { x: axis("latent weight", { stacked: true }), y: axis("weights", { stacked: true }) } },
      },
      head: ["latent weight", "−1", "0", "+1"], label: `Latent weights of ${layer.path}`,
      rows: middle.map((value, index) => [show.number(value, 3), ...counts.map((one) => one[index])]),
    }),
  });
};

// A layer over the epochs: its share of zeros and how many codes changed.
const course = (layer) => {
  const points = layer.history.filter((entry) => known(entry.sparsity));
  if (points.length < 2) return null;
  const names = [["sparsity", "zeros"], ["flips", "codes that changed"]];
  return figure({
    title: "Over the epochs", height: 200,
    draw: () => ({
      config: {
        type: "line",
        data: {
          labels: points.map((entry) => entry.epoch),
          datasets: names.map(([key, label], index) => ({
            label, data: points.map((entry) => (known(entry[key]) ? 100 * entry[key] : null)), borderColor: COLORS[index], borderDash: index ? [6, 3] : [],
            backgroundColor: COLORS[index], pointRadius: 2, spanGaps: true,
          })),
        },
        options: { scales: { x: axis("epoch"), y: axis("%", { beginAtZero: true }) } },
      },
      head: ["epoch", ...names.map(([, label]) => label)], label: `${layer.path} over the epochs`,
      rows: points.map((entry) => [entry.epoch, ...names.map(([key]) => show.percent(entry[key]))]),
    }),
  });
};

const layerRows = (run) => {
  const rows = new Map();
  const row = (name) => rows.get(name) ?? rows.set(name, { name }).get(name);
  for (const layer of run.inspection?.layers ?? []) Object.assign(row(layer.name), { stored: layer });
  for (const layer of run.training?.layers ?? []) Object.assign(row(layer.path), { trained: layer });
  const steps = measurements(run)[0]?.entry.steps ?? [];
  for (const one of rows.values()) one.step = one.stored?.step && steps.find((step) => step.name === one.stored.step);
  return [...rows.values()];
};

const layerDetail = (row, asked = false) => {
  const { stored, trained, step } = row;
  const facts = [
    ["method", trained?.method], ["phase", trained?.phase], ["why this kernel", stored?.reason],
    ["levels", (stored?.levels ?? trained?.levels)?.map((value) => show.number(value)).join(" to ")],
    ["work", step?.dense_gmacs ? `${show.number(step.dense_gmacs, 3)} dense GMAC/s, ${show.number(step.gadds, 3)} Gadd/s` : null],
  ].filter(([, value]) => value);
  if (asked) return facts.length || trained?.histogram;
  const list = element("dl", {}, facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, show.text(value))]));
  const drawn = [trained?.histogram ? histogram(trained) : null, trained?.history ? course(trained) : null];
  requestAnimationFrame(redrawCharts);
  return element("div", { class: "inner" }, list, drawn);
};

const layerTable = (run) => {
  const rows = layerRows(run);
  if (!rows.length) return null;
  const of = (row, key) => row.stored?.[key] ?? row.trained?.[key];
  const weights = (row) => (of(row, "shape") ?? []).reduce((a, b) => a * b, 1);
  const columns = [
    { title: "layer", text: (row) => row.name, left: true },
    { title: "shape", text: (row) => (of(row, "shape") ?? []).join("×"), value: weights },
    { title: "kind", text: (row) => show.text(row.stored?.kind ?? row.trained?.method), left: true },
    { title: "zeros", text: (row) => show.percent(of(row, "sparsity")), value: (row) => of(row, "sparsity") },
    { title: "entropy, bits", text: (row) => show.number(of(row, "entropy"), 3), value: (row) => of(row, "entropy") },
    { title: "bits a weight", text: (row) => show.number(row.stored?.bits, 3), value: (row) => row.stored?.bits },
    { title: "bytes", text: (row) => show.count(of(row, "bytes")), value: (row) => of(row, "bytes") },
    { title: "codes changed", text: (row) => show.percent(row.trained?.flips, 2), value: (row) => row.trained?.flips },
    { title: "kernel", text: (row) => show.text(row.stored?.kernel), left: true },
    { title: "µs", text: (row) => show.number(row.step?.us, 3), value: (row) => row.step?.us },
    { title: "of the ceiling", text: (row) => show.percent(row.step?.ceiling_share, 0), value: (row) => row.step?.ceiling_share },
  ].filter((column, index) => index === 0 || rows.some((row) => column.text(row) !== ""));
  return element("div", { class: "card" }, sortableTable("Layers", columns, rows, layerDetail));
};

const outputs = (run) => {
  const report = run.inspection?.details?.verification;
  if (!report) return null;
  const columns = [
    { title: "output", text: (row) => row.name, left: true },
    { title: "cosine", text: (row) => show.number(row.cosine, 7), value: (row) => row.cosine },
    { title: "relative difference", text: (row) => show.number(row.relative, 3), value: (row) => row.relative },
    { title: "largest difference", text: (row) => show.number(row.max_abs, 3), value: (row) => row.max_abs },
    { title: "same first class", text: (row) => show.percent(row.top1), value: (row) => row.top1 },
  ];
  return element("div", { class: "card" }, sortableTable("Library against onnxruntime", columns, report.outputs));
};

const runPart = (run) => {
  const drawn = [latencies(run), run.inspection && waterfall(run), history(run)].filter(Boolean);
  const times = layerTimes(run);
  if (times) times.classList.add("wide");
  const notes = run.notes.map((note) => element("p", { class: "notes" }, note));
  return [element("h2", {}, run.name), ...notes, tiles(run), element("div", { class: "figures" }, drawn, times), layerTable(run), outputs(run)];
};

// Several runs: how good each is over what it costs, and the ones that no other beats in both.
const comparison = (runs) => {
  const costs = [["milliseconds", "median latency, ms"], ["bytes", "bytes on the device"], ["weight_bytes", "bytes of weights"]]
    .map(([key, text]) => [key, text, runs.filter((run) => known(run.headline[key])).length])
    .filter(([, , count]) => count).sort(([, , a], [, , b]) => b - a);
  const last = (run, name) => [...(run.training?.epochs ?? [])].reverse().map((epoch) => epoch.values[name]).find(known);
  const metrics = [...new Set(runs.flatMap((run) => run.metrics))].filter((name) => runs.some((run) => known(last(run, name))));
  const columns = [
    { title: "run", text: (run) => run.name, left: true },
    ...metrics.slice(0, 4).map((name) => ({ title: name, text: (run) => show.number(last(run, name)), value: (run) => last(run, name) })),
    { title: "zeros", text: (run) => show.percent(run.headline.sparsity), value: (run) => run.headline.sparsity },
    ...costs.map(([key, text]) => ({
      title: text, text: (run) => (key === "milliseconds" ? show.number(run.headline[key], 3) : show.count(run.headline[key])), value: (run) => run.headline[key],
    })),
  ];
  const table = element("div", { class: "card" }, sortableTable("Runs", columns, runs));
  const whole = runs.some((run) => costs.some(([key]) => known(run.headline[key])) && metrics.some((name) => known(last(run, name))));
  if (!whole) {
    const note = "No run has both a quality and a cost: put its artifact and its compression.json into one folder for a chart.";
    return [element("p", { class: "notes" }, note), table];
  }
  const chart = figure({
    title: "Quality over cost", note: "The line joins the runs that no other run beats in both.", height: 380,
    choices: [{ label: "quality", options: metrics.map((name) => [name, name]) }, { label: "cost", options: costs.map(([key, text]) => [key, text]) },
      { label: "which is better", options: [["more", "more is better"], ["less", "less is better"]], initial: metrics[0].includes("loss") ? "less" : "more" }],
    draw: (metric, cost, better) => {
      const points = runs.map((run) => ({ name: run.name, x: run.headline[cost], y: last(run, metric) })).filter((p) => known(p.x) && known(p.y));
      const beats = (a, b) => (better === "more" ? a.y > b.y : a.y < b.y);
      const front = points.filter((p) => !points.some((q) => q !== p && q.x <= p.x && !beats(p, q) && (q.x < p.x || beats(q, p)))).sort((a, b) => a.x - b.x);
      const sets = points.map((p, index) => ({
        label: p.name, named: true, data: [p], backgroundColor: COLORS[index % COLORS.length], pointRadius: 6,
        pointStyle: ["circle", "rect", "triangle", "rectRot", "star"][Math.floor(index / COLORS.length) % 5],
      }));
      const line = { label: "not beaten", type: "line", data: front, borderColor: style("--muted"), borderWidth: 1, pointRadius: 0 };
      return {
        config: {
          type: "scatter", data: { datasets: [...sets, line] }, plugins: [names],
          options: {
            plugins: { legend: { display: false }, tooltip: { callbacks: { label: (item) => `${item.dataset.label}: ${show.number(item.parsed.x)}, ${show.number(item.parsed.y)}` } } },
            scales: { x: axis(costs.find(([key]) => key === cost)[1]), y: axis(metric) },
          },
        },
        head: ["run", cost, metric, "not beaten"], label: `${metric} over ${cost}`,
        rows: points.map((p) => [p.name, show.number(p.x), show.number(p.y), front.includes(p) ? "yes" : ""]),
      };
    },
  });
  chart.classList.add("wide");
  return [element("div", { class: "figures" }, chart), table];
};

const themeButton = () => {
  const dark = () => document.documentElement.dataset.theme === "dark";
  const set = (name) => { document.documentElement.dataset.theme = name; button.textContent = dark() ? "Light colors" : "Dark colors"; };
  const button = element("button", { type: "button", onclick: () => { set(dark() ? "light" : "dark"); redrawCharts(); } });
  set(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  return button;
};

const start = () => {
  const { runs, created } = DATA;
  const place = element("div");
  const tabs = runs.map((run) => element("button", { type: "button", role: "tab", onclick: () => open(run) }, run.name));
  const open = (run) => {
    tabs.forEach((tab, index) => tab.setAttribute("aria-selected", String(runs[index] === run)));
    place.replaceChildren(...runPart(run).filter(Boolean));
    redrawCharts();
  };
  const several = runs.length > 1 ? [...comparison(runs), element("div", { class: "tabs", role: "tablist", "aria-label": "runs" }, tabs)] : [];
  document.getElementById("page").append(
    element("header", {}, element("h1", {}, "Compression report"), element("span", { class: "space" }), themeButton()),
    ...several, place, element("footer", {}, `Made ${created} by tern-lightning. This page stands alone: nothing is fetched or sent.`));
  open(runs[0]);
};

start();
