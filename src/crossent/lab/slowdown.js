"use strict";

/* What an answer costs, and one neuron that learns by two costs. */

const EPOCHS = 300;

const COSTS = [
  {
    key: "quadratic",
    name: "quadratic",
    style: "quadratic",
    beside: [9, -7],
    cost: maths.quadraticCost,
    gradient: maths.quadraticCostGradient,
  },
  {
    key: "cross",
    name: "cross-entropy",
    style: "cross",
    beside: [10, 18],
    cost: maths.binaryCrossEntropy,
    gradient: maths.binaryCrossEntropyGradient,
  },
];

const PRICES = [
  { style: "cross", price: (p) => -Math.log(p), name: "cross-entropy" },
  { style: "quadratic", price: (p) => (1 - p) ** 2 / 2, name: "quadratic cost" },
];

figures.price = (form, { p }) => {
  const chart = new Chart(form.querySelector("svg"), {
    x: [0, 1],
    y: [0, 5],
    xLabel: "probability p that you gave to what happened",
    yLabel: "cost",
    right: 16,
  });
  chart.cursor(p);
  for (const { price, style, name } of PRICES) {
    chart.line(curve(price, 0, 1, 400).slice(1), style);
    chart.dot(p, price(p), style);
    chart.text(chart.x(0.14), chart.y(price(0.14)) - 9, name, `label ${style}`);
  }
  const [cross, quadratic] = PRICES.map(({ price }) => format(price(p)));
  say(
    form,
    `You gave ${format(p, 2)} to what then happened. Cross-entropy charges ${cross} nats, ` +
      `the quadratic cost ${quadratic}.`,
  );
};

/** Train the neuron by one cost: its outputs, its costs, and the figures worth reading. */
const train = ({ cost, gradient }, start, { rate, target }) => {
  const scores = maths.descend({ ...start, rate, target, gradient, epochs: EPOCHS });
  return {
    outputs: scores.map(maths.sigmoid),
    costs: scores.map((z) => cost(z, target)),
    slope: gradient(scores[0], target),
    crossing: maths.crossing(scores, target),
  };
};

const drawRuns = (svg, runs, epoch, values, frame) => {
  const chart = new Chart(svg, { x: [0, EPOCHS], xLabel: "epoch", ...frame });
  chart.cursor(epoch);
  for (const run of runs) {
    const points = values(run).map((value, i) => [i, value]);
    chart.line(points, `${run.style} ahead`);
    chart.line(points.slice(0, epoch + 1), run.style);
    chart.dot(epoch, points[epoch][1], run.style);
  }
  chart.endLabels(
    runs.map((run) => {
      const end = values(run)[EPOCHS];
      return { y: end, name: run.name, value: format(end), className: run.style };
    }),
  );
  return chart;
};

const drawStart = (form, which, settings) => {
  const start = { weight: settings[`weight${which}`], bias: settings[`bias${which}`] };
  const runs = COSTS.map((cost) => ({ ...cost, ...train(cost, start, settings) }));
  const { epoch } = settings;
  const outputs = drawRuns(form.querySelector(`#output${which}`), runs, epoch, (run) => run.outputs, {
    y: [0, 1],
    yLabel: "output a",
  });
  for (const { crossing, style, beside } of runs) {
    if (crossing < 1) continue;
    outputs.dot(crossing, 0.5, `${style} ring`);
    outputs.text(outputs.x(crossing) + beside[0], outputs.y(0.5) + beside[1], crossing, `label ${style}`);
  }
  const shares = ({ costs }) => costs.map((cost) => cost / (costs[0] || 1));
  drawRuns(form.querySelector(`#cost${which}`), runs, epoch, shares, {
    y: [0, Math.max(1, ...runs.flatMap(shares))],
    yLabel: "cost, as a share of the cost at the start",
  });
  show(form, `start${which}`, runs[0].outputs[0]);
  for (const run of runs) {
    show(form, `slope-${run.key}${which}`, run.slope);
    show(form, `crossing-${run.key}${which}`, run.crossing, run.crossing < 0 ? "never" : run.crossing);
    show(form, `output-${run.key}${which}`, run.outputs[epoch]);
    show(form, `cost-${run.key}${which}`, run.costs[epoch]);
  }
  return runs;
};

const when = ({ crossing }) => (crossing < 0 ? "never" : `at epoch ${crossing}`);

const compareRuns = ([quadratic, cross]) => {
  const ratio = quadratic.slope === 0 ? 1 : cross.slope / quadratic.slope;
  return (
    `From output ${format(cross.outputs[0])}, cross-entropy begins with a step ${format(ratio, 2)} times ` +
    `as large. It passes one half ${when(cross)}, the quadratic cost ${when(quadratic)}.`
  );
};

figures.slowdown = (form, settings) => {
  const starts = [1, 2].map((which) => drawStart(form, which, settings));
  for (const element of form.querySelectorAll(".epoch-now")) element.textContent = settings.epoch;
  say(form, starts.map(compareRuns).join(" "));
};
