"use strict";

/* One neuron's gradient: the slope of the cost, times sigma', is the slope that learning uses. */

const RANGE = [-8, 8];

const FACTORS = [
  {
    key: "quadratic",
    names: ["dC/da", "dC/dz"],
    style: "quadratic",
    byOutput: maths.difference,
    gradient: maths.quadraticCostGradient,
  },
  {
    key: "cross",
    names: ["dE/da", "dE/dz"],
    style: "cross",
    byOutput: maths.binaryCrossEntropyByOutput,
    gradient: maths.binaryCrossEntropyGradient,
  },
];

/** Slopes from -1.6 y to 1.6 (1 - y): room for the error, and for what exceeds it to be seen leaving. */
const drawFactors = (form, { key, style, names, byOutput, gradient }, z, y) => {
  const chart = new Chart(form.querySelector(`#factors-${key}`), {
    x: RANGE,
    y: [Math.min(-1.6 * y, -0.02), Math.max(1.6 * (1 - y), 0.3)],
    xLabel: "score z",
    yLabel: "slope",
  });
  const product = curve((score) => gradient(score, y), ...RANGE);
  chart.area(product, style);
  chart.cursor(z);
  chart.line(curve(maths.sigmoidPrime, ...RANGE), "plain");
  chart.line(curve((score) => byOutput(score, y), ...RANGE, 400), "plain dashed");
  chart.line(product, style);
  const values = [
    { y: byOutput(z, y), name: names[0], className: "plain" },
    { y: maths.sigmoidPrime(z), name: "σ′(z)", className: "plain" },
    { y: gradient(z, y), name: names[1], className: style },
  ];
  for (const value of values) chart.dot(z, value.y, value.className);
  chart.endLabels(values.map((value) => ({ ...value, value: format(value.y) })));
  show(form, `by-output-${key}`, byOutput(z, y));
  show(form, `gradient-${key}`, gradient(z, y));
};

figures.neuron = (form, { z, y }) => {
  for (const factors of FACTORS) drawFactors(form, factors, z, y);
  show(form, "a", maths.sigmoid(z));
  show(form, "sigma-prime", maths.sigmoidPrime(z));
  const [quadratic, cross] = FACTORS.map(({ gradient }) => gradient(z, y));
  say(
    form,
    `At z = ${format(z, 2)} the neuron answers ${format(maths.sigmoid(z))} and should answer ` +
      `${format(y, 2)}. Its slope is ${format(quadratic)} by the quadratic cost and ` +
      `${format(cross)} by cross-entropy.`,
  );
};
