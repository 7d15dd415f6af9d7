"use strict";

/*
 * Drawing: numbers as text, and line charts in SVG with labels on the lines themselves. A chart is
 * drawn afresh at the width it has on the screen, so that its text keeps its size on a telephone.
 */

/** A number with the given significant digits, as one would write it by hand. */
const format = (value, digits = 3) => {
  if (Number.isNaN(value)) return "undefined";
  if (!Number.isFinite(value)) return value < 0 ? "−∞" : "∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e4) return String(value).replace("-", "−");
  const size = Math.abs(Number(value.toPrecision(digits)));
  const text = size >= 1e4 || size < 1e-3 ? scientific(value, digits) : value.toPrecision(digits);
  return text.replace("-", "−");
};

const scientific = (value, digits) => {
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  return `${mantissa} × ${powerOfTen(Number(exponent))}`;
};

const powerOfTen = (exponent) =>
  "10" + [...String(exponent)].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("");

/** Round numbers from low to high, about `count` of them. */
const ticks = (low, high, count) => {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) =>
    Number(((first + i) * step).toPrecision(12)),
  );
};

const svgElement = (tag, attributes = {}, text = "") => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
};

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

const tidy = (value) => String(Number(value.toPrecision(6))).replace("-", "−");

class Chart {
  /** The chart last drawn in each SVG element. */
  static of = new WeakMap();

  /** Axes over x = [low, high] and y = [low, high]; `yText` writes the ticks of y. */
  constructor(svg, { x, y, xLabel, yLabel, yTicks = ticks(...y, 4), yText = tidy, right = 104 }) {
    this.svg = svg;
    this.xRange = x;
    this.yRange = y;
    this.left = 46;
    this.right = svg.clientWidth - right;
    this.top = 26;
    this.bottom = svg.clientHeight - 40;
    svg.replaceChildren();
    this.axes(ticks(...x, this.right - this.left < 300 ? 3 : 6), yTicks, yText);
    this.text(this.left, 12, yLabel, "axis-label");
    this.text(this.right, this.bottom + 34, xLabel, "axis-label", "end");
    Chart.of.set(svg, this);
  }

  x(value) {
    const [low, high] = this.xRange;
    return this.left + ((value - low) / (high - low)) * (this.right - this.left);
  }

  y(value) {
    const [low, high] = this.yRange;
    return this.bottom - ((value - low) / (high - low)) * (this.bottom - this.top);
  }

  /** The x that lies `pixels` from the left edge of the element. */
  xAt(pixels) {
    const [low, high] = this.xRange;
    return low + ((pixels - this.left) / (this.right - this.left)) * (high - low);
  }

  add(tag, attributes, text) {
    return this.svg.appendChild(svgElement(tag, attributes, text));
  }

  text(x, y, text, className, anchor = "start") {
    return this.add("text", { x, y, class: className, "text-anchor": anchor }, text);
  }

  axes(xTicks, yTicks, yText) {
    for (const tick of yTicks) {
      const y = this.y(tick);
      this.add("line", { x1: this.left, x2: this.right, y1: y, y2: y, class: "grid" });
      this.text(this.left - 8, y + 4, yText(tick), "tick", "end");
    }
    for (const tick of xTicks) this.text(this.x(tick), this.bottom + 17, tidy(tick), "tick", "middle");
  }

  /** Points [x, y] joined up; where y leaves the frame the line stops at its edge. */
  line(points, className) {
    const path = clip(points, this.yRange).map(([x, y], i) => {
      const [px, py] = [this.x(x).toFixed(1), this.y(y).toFixed(1)];
      return `${i ? "L" : "M"}${px} ${py}`;
    });
    return this.add("path", { d: path.join(""), class: `line ${className}` });
  }

  /** The area between the points and zero. */
  area(points, className) {
    const zero = Math.max(0, this.yRange[0]);
    const closed = [[points[0][0], zero], ...points, [points.at(-1)[0], zero]];
    const path = closed.map(([x, y]) => `${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)}`);
    return this.add("path", { d: `M${path.join("L")}Z`, class: `area ${className}` });
  }

  dot(x, y, className) {
    if (y < this.yRange[0] || y > this.yRange[1]) return;
    this.add("circle", { cx: this.x(x), cy: this.y(y), r: 4.5, class: `dot ${className}` });
  }

  /** A thin upright line at x: where the reader stands. */
  cursor(x) {
    const px = this.x(x);
    this.add("line", { x1: px, x2: px, y1: this.top - 4, y2: this.bottom, class: "cursor" });
  }

  /** Labels {y, name, value, className} right of the plot, each at its y, pushed apart if need be. */
  endLabels(labels) {
    const [gap, floor] = [33, this.bottom - 14];
    const sorted = labels.map((label) => ({ ...label, at: this.y(clamp(label.y, ...this.yRange)) }));
    sorted.sort((a, b) => a.at - b.at);
    sorted.forEach((label, i) => {
      label.at = Math.max(label.at, i ? sorted[i - 1].at + gap : this.top + 4);
    });
    sorted.reverse().forEach((label, i) => {
      label.at = Math.min(label.at, i ? sorted[i - 1].at - gap : floor);
    });
    for (const { at, name, value, className } of sorted) {
      this.text(this.right + 10, at, name, `label ${className}`);
      this.text(this.right + 10, at + 15, value, `label value ${className}`);
    }
  }
}

/** The part of a line that lies within [low, high], ending where it crosses the edge. */
const clip = (points, [low, high]) => {
  const inside = ([, y]) => y >= low && y <= high;
  return points.flatMap((point, i) => {
    if (inside(point)) return [point];
    const neighbour = [points[i - 1], points[i + 1]].find((other) => other && inside(other));
    if (!neighbour) return [];
    const edge = point[1] > high ? high : low;
    const share = (edge - neighbour[1]) / (point[1] - neighbour[1]);
    return [[neighbour[0] + share * (point[0] - neighbour[0]), edge]];
  });
};

/** `count` + 1 points [x, f(x)] from low to high. */
const curve = (f, low, high, count = 160) =>
  Array.from({ length: count + 1 }, (_, i) => {
    const x = low + (i / count) * (high - low);
    return [x, f(x)];
  });
