// Charts that follow the page's colors, each with its figures as a table for readers who cannot see it.

// Colors that people with any color vision tell apart (Okabe and Ito, 2008).
const COLORS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#b8a800", "#7f7f7f"];
const OURS = "#009e73";
const OTHERS = "#7f8fa3";
const charts = new Set();
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// draw() gives {config, head, rows, label}: a chart, and its figures as a table. choices: {label, options, initial}.
const figure = ({ title, note, height = 300, choices = [], draw }) => {
  const holder = element("div", { class: "canvas", style: `height: ${height}px` });
  const numbers = element("details", {}, element("summary", {}, "Figures as a table"));
  const controls = choices.map((choice) => {
    const options = choice.options.map(([value, text]) =>
      element("option", { value, selected: value === choice.initial }, text));
    return element("select", { "aria-label": choice.label, onchange: () => redraw() }, options);
  });
  let chart = null;
  const redraw = () => {
    const { config, head, rows, label } = draw(...controls.map((control) => control.value));
    const canvas = element("canvas", { role: "img", "aria-label": label });
    chart?.destroy();
    holder.replaceChildren(canvas);
    Chart.defaults.color = style("--muted");
    Chart.defaults.borderColor = style("--line");
    Chart.defaults.plugins.legend.labels.usePointStyle = true;
    Chart.defaults.font.family = style("--font");
    config.options = {
      responsive: true, maintainAspectRatio: false, animation: calm() ? false : { duration: 250 },
      ...config.options,
    };
    chart = new Chart(canvas, config);
    const table = element("table", {},
      element("thead", {}, element("tr", {}, head.map((text) => element("th", { scope: "col" }, text)))),
      element("tbody", {}, rows.map((row) => element("tr", {}, row.map((text) => element("td", {}, show.text(text)))))));
    numbers.replaceChildren(numbers.firstChild, element("div", { class: "scroll" }, table));
  };
  const shown = choices.length ? element("div", { class: "controls" }, controls) : null;
  const made = element("figure", {}, element("figcaption", {}, element("h3", {}, title), shown),
    note ? element("p", { class: "note" }, note) : null, holder, numbers);
  charts.add({ redraw, holder });
  return made;
};

// A chart needs its place on the page: called after what has it was put there, and when colors change.
const redrawCharts = () => {
  for (const entry of charts) {
    if (!entry.holder.isConnected) charts.delete(entry);
    else entry.redraw();
  }
};

const axis = (text, more = {}) => ({ title: { display: true, text }, ...more });

const barConfig = (labels, datasets, x, format, legend = false) => ({
  type: "bar",
  data: { labels, datasets },
  options: {
    indexAxis: "y",
    plugins: {
      legend: { display: legend },
      tooltip: { callbacks: { label: (item) => `${item.dataset.label}: ${format(item)}` } },
    },
    scales: { x, y: { ticks: { autoSkip: false } } },
  },
});

// Bars with whiskers from the first to the third quartile.
const whiskers = {
  id: "whiskers",
  afterDatasetsDraw: (chart) => {
    const { ctx, scales } = chart;
    chart.data.datasets.forEach((set, index) => (set.spread ?? []).forEach((pair, place) => {
      if (!pair.every(known)) return;
      const y = chart.getDatasetMeta(index).data[place].y;
      const [from, to] = pair.map((value) => scales.x.getPixelForValue(value));
      ctx.save();
      ctx.strokeStyle = style("--text");
      ctx.beginPath();
      for (const [ax, ay, bx, by] of [[from, y, to, y], [from, y - 4, from, y + 4], [to, y - 4, to, y + 4]]) {
        ctx.moveTo(ax, ay);
        ctx.lineTo(bx, by);
      }
      ctx.stroke();
      ctx.restore();
    }));
  },
};

// Points with their names beside them.
const names = {
  id: "names",
  afterDatasetsDraw: (chart) => {
    const { ctx, chartArea } = chart;
    ctx.save();
    ctx.fillStyle = style("--text");
    ctx.font = `12px ${style("--font")}`;
    chart.data.datasets.forEach((set, index) => {
      if (!set.named) return;
      const point = chart.getDatasetMeta(index).data[0];
      if (!point) return;
      const right = point.x + 10 + ctx.measureText(set.label).width > chartArea.right;
      ctx.textAlign = right ? "right" : "left";
      ctx.fillText(set.label, point.x + (right ? -10 : 10), point.y + 4);
    });
    ctx.restore();
  },
};
