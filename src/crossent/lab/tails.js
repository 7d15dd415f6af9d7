"use strict";

/* A confident right answer in float32: as commonly computed, and as this library computes it. */

const WAYS = [
  {
    key: "logsumexp",
    name: "logsumexp − s",
    style: "plain dashed",
    loss: maths.float32.lossByLogsumexp,
    gradient: maths.float32.gradientBySubtraction,
  },
  {
    key: "log-softmax",
    name: "log-softmax",
    style: "plain",
    loss: maths.float32.lossByLogSoftmax,
    gradient: maths.float32.gradientBySubtraction,
  },
  {
    key: "here",
    name: "as here",
    style: "cross",
    loss: maths.float32.loss,
    gradient: maths.float32.gradient,
  },
];

/** The scores of a right answer that leads every other class by `gap`. */
const confident = (gap, classes) => [gap, ...Array(classes - 1).fill(0)];

const GAPS = [0, 30];

/** The powers of ten that the charts show; the smallest float32 is another thirty further down. */
const POWERS = [-14, 1];

/** Where the value is not 0, its size as a power of ten. */
const powers = (f, classes) =>
  curve((gap) => Math.log10(Math.abs(f(confident(gap, classes), 0))), ...GAPS, 400).filter(
    ([, power]) => Number.isFinite(power),
  );

const drawTail = (svg, ways, quantity, yLabel, { gap, classes }) => {
  const chart = new Chart(svg, {
    x: GAPS,
    y: POWERS,
    yTicks: [-10, -5, 0],
    yText: powerOfTen,
    xLabel: "lead of the right class",
    yLabel,
  });
  chart.cursor(gap);
  const labels = ways.map((way) => {
    const points = powers(way[quantity], classes);
    const [x, y] = points.at(-1);
    const lost = x < GAPS[1];
    chart.line(lost ? [...points, [x, POWERS[0]]] : points, way.style);
    if (lost) chart.text(chart.x(x) - 8, chart.bottom - 8, "exactly 0 from here on", "tick", "end");
    const now = Math.abs(way[quantity](confident(gap, classes), 0));
    if (now) chart.dot(gap, Math.log10(now), way.style);
    return { y: lost ? POWERS[0] : y, name: way.name, value: format(now), className: way.style };
  });
  chart.endLabels(labels);
};

figures.tails = (form, settings) => {
  const { gap, classes } = settings;
  const [, logSoftmax, here] = WAYS;
  drawTail(form.querySelector("#tail-loss"), [here, logSoftmax], "loss", "loss in nats", settings);
  const commonGradient = { ...logSoftmax, name: "p − 1" };
  drawTail(
    form.querySelector("#tail-gradient"),
    [here, commonGradient],
    "gradient",
    "size of the gradient at the right class",
    settings,
  );
  const s = confident(gap, classes);
  const c = confident(1, classes);
  const showFive = (name, value) => show(form, name, value, format(value, 5));
  for (const { key, loss, gradient } of WAYS) {
    showFive(`loss-${key}`, loss(s, 0));
    showFive(`gradient-${key}`, gradient(s, 0));
  }
  showFive("loss-true", maths.crossEntropy(s, c));
  showFive("gradient-true", maths.crossEntropyGradient(s, c)[0]);
  say(form, tailSentence(logSoftmax.loss(s, 0), maths.crossEntropy(s, c)));
};

const tailSentence = (common, exact) =>
  common === 0
    ? "The common form answers exactly 0, and so does its gradient: this example teaches nothing any more."
    : `The common form is off by ${format((100 * Math.abs(common - exact)) / exact, 2)} percent.`;
