"use strict";

/* A trained layer: what the library learnt when the page was written, played back. */

const layer = JSON.parse(document.getElementById("layer-data").textContent);

/** The slider counts snapshots, of which there are as many as the training took; it starts at the last. */
const snapshotControl = document.querySelector("[name=snapshot]");
snapshotControl.max = layer.snapshots.length - 1;
snapshotControl.defaultValue = snapshotControl.max;

/** An 8 x 8 image of squares; `paint` gives each its value. */
const squares = (size) => {
  const svg = svgElement("svg", { viewBox: `0 0 ${size} ${size}`, "aria-hidden": "true" });
  for (let i = 0; i < size * size; i++) {
    svg.append(svgElement("rect", { x: i % size, y: Math.floor(i / size), width: 1.02, height: 1.02 }));
  }
  return svg;
};

const captioned = (image, ...lines) => {
  const item = document.createElement("li");
  item.append(image);
  for (const line of lines) {
    const text = document.createElement("span");
    text.textContent = line;
    item.append(text);
  }
  return item;
};

/** Weights come as signed bytes, -127 to 127, which stand for -peak to peak; 1 is the largest peak. */
const decode = ({ weights, peak }) =>
  [...Int8Array.from(atob(weights), (c) => c.charCodeAt(0))].map((byte) => (byte / 127) * peak);

const paintWeights = (svg, weights) =>
  weights.forEach((weight, i) => {
    svg.children[i].setAttribute("class", weight < 0 ? "minus" : "plus");
    svg.children[i].style.setProperty("--heat", `${100 * Math.abs(weight)}%`);
  });

const paintDigit = (svg, pixels) =>
  [...pixels].forEach((digit, i) => {
    svg.children[i].setAttribute("fill-opacity", parseInt(digit, 36) / 16);
  });

const showWrong = (list) => {
  const items = layer.wrong.map(({ pixels, label, decision, p, loss }) => {
    const image = squares(8);
    paintDigit(image, pixels);
    return captioned(
      image,
      `a ${label}, read as ${decision}`,
      `p(${label}) = ${format(p, 2)}`,
      `${format(loss)} nats`,
    );
  });
  list.replaceChildren(...items);
};

const drawLossCurve = (svg, { iteration, train, valid }) => {
  const [last, lastTrain, lastValid] = layer.curve.at(-1);
  const chart = new Chart(svg, {
    x: [0, last],
    y: [0, 2.4],
    xLabel: "iteration",
    yLabel: "cross-entropy per digit, in nats",
  });
  chart.cursor(iteration);
  chart.line(layer.curve.map(([i, train]) => [i, train]), "cross dashed");
  chart.line(layer.curve.map(([i, , valid]) => [i, valid]), "cross");
  chart.dot(iteration, valid, "cross");
  chart.dot(iteration, train, "cross");
  chart.endLabels([
    { y: lastValid, name: "unseen digits", value: format(lastValid), className: "cross" },
    { y: lastTrain, name: "training", value: format(lastTrain), className: "cross" },
  ]);
};

const weightImages = (list) => {
  if (!list.children.length) {
    list.replaceChildren(...layer.classes.map((digit) => captioned(squares(8), String(digit))));
  }
  return [...list.querySelectorAll("svg")];
};

figures.layer = (form, { snapshot }) => {
  const now = layer.snapshots[snapshot];
  const { iteration, valid, accuracy } = now;
  const values = decode(now);
  drawLossCurve(form.querySelector("#loss-curve"), now);
  weightImages(form.querySelector("#weights")).forEach((svg, k) =>
    paintWeights(svg, values.slice(64 * k, 64 * (k + 1))),
  );
  snapshotControl.setAttribute("aria-valuetext", `iteration ${iteration}`);
  snapshotControl.parentNode.querySelector("output").textContent = iteration;
  if (!form.querySelector("#wrong").children.length) showWrong(form.querySelector("#wrong"));
  say(
    form,
    `After ${iteration} iteration${iteration === 1 ? "" : "s"} the layer pays ${format(valid)} nats for a digit ` +
      `it has not seen, and gets ${format(100 * accuracy)} percent of them right.`,
  );
};
