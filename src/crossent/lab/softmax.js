"use strict";

/* Several classes: scores to probabilities, the error, and every link of the chain rule. */

const CLASSES = ["cat", "dog", "fox", "owl"];

const ERRORS = {
  one: {
    style: "cross",
    loss: "CrossEntropy",
    error: maths.crossEntropy,
    byOutput: maths.crossEntropyByOutput,
    gradient: maths.crossEntropyGradient,
  },
  two: {
    style: "two",
    loss: "SoftmaxBinaryCrossEntropy",
    error: maths.twoTermCrossEntropy,
    byOutput: maths.twoTermByOutput,
    gradient: maths.twoTermGradient,
  },
};

/** Every number of the figure, from the scores s, the right class and the kind of error. */
const links = (s, right, { error, byOutput, gradient }) => {
  const c = s.map((_, j) => (j === right ? 1 : 0));
  const outer = byOutput(s, c);
  const jacobian = maths.softmaxJacobian(s);
  return {
    p: maths.softmax(s),
    c,
    error: error(s, c),
    outer,
    jacobian,
    terms: maths.chainTerms(outer, jacobian),
    chain: maths.chain(outer, jacobian),
    fused: gradient(s, c),
    finite: maths.finiteDifferences((scores) => error(scores, c), s),
    difference: maths.crossEntropyGradient(s, c),
  };
};

/** Slopes are compared, so all have three decimals; only what is exactly 0 is written 0. */
const slope = (value) => {
  if (value === 0 || Math.abs(value) >= 100) return format(value);
  const text = value.toFixed(3);
  return text.replace(Number(text) === 0 ? "-" : "", "").replace("-", "−");
};

const cell = (value, className = "") => {
  const element = document.createElement("td");
  element.append(slope(value));
  element.dataset.value = value;
  element.className = className;
  return element;
};

const tableRow = (heading, cells) => {
  const row = document.createElement("tr");
  const header = document.createElement("th");
  header.scope = "row";
  header.innerHTML = heading;
  row.append(header, ...cells);
  return row;
};

/** A heat map cell: +1/4 and -1/4 are the largest values that the Jacobian can hold. */
const heat = (value) => {
  const element = cell(value, value < 0 ? "heat minus" : "heat plus");
  element.style.setProperty("--heat", `${Math.min(Math.abs(value) * 4, 1) * 60}%`);
  return element;
};

const fillJacobian = (form, { outer, jacobian }, column) => {
  const rows = jacobian.map((row, i) => {
    const cells = row.map(heat);
    cells[column].classList.add("chosen");
    return tableRow(CLASSES[i], [cell(outer[i], "outer"), ...cells]);
  });
  form.querySelector("#jacobian tbody").replaceChildren(...rows);
};

/** The gradient found in five ways, each marked by whether it is the slope of the error. */
const fillGradients = (form, { terms, chain, fused, finite, difference }, column) => {
  const row = (heading, values) => {
    const right = values.every((value, j) => Math.abs(value - fused[j]) < 1e-6);
    const cells = values.map((value) => cell(value, right ? "agrees" : "differs"));
    cells[column].classList.add("chosen");
    const mark = document.createElement("td");
    mark.textContent = right ? "✓" : "✗";
    mark.className = right ? "agrees" : "differs";
    return tableRow(heading, [mark, ...cells]);
  };
  form.querySelector("#jacobian tfoot").replaceChildren(
    row("chain rule", chain),
    row("fused form", fused),
    row("finite differences", finite),
    row("<i>p − c</i>", difference),
    row("diagonal alone", terms.map((terms, j) => terms[j])),
  );
};

/** A factor as one writes it in a product. */
const factor = (value) => (value < 0 ? `(${slope(value)})` : slope(value));

const spellOut = (form, { outer, jacobian, chain }, k) => {
  const products = jacobian.map((row, i) => `${factor(outer[i])} × ${factor(row[k])}`);
  form.querySelector("#spelled-out").textContent =
    `Column ${CLASSES[k]}: ${products.join(" + ")} = ${slope(chain[k])}`;
};

const fillClasses = (form, { p, c }) => {
  const decision = maths.oneHot(p);
  for (const [j, row] of [...form.querySelectorAll("#classes tbody tr")].entries()) {
    row.querySelector(".bar").style.setProperty("--share", `${100 * p[j]}%`);
    row.classList.toggle("right", c[j] === 1);
    row.classList.toggle("decided", decision[j] === 1);
    show(row, "p", p[j]);
    show(row, "decision", decision[j]);
  }
};

const errorSentence = (form, kind, { p, c, error }, right) => {
  const first = `−ln ${format(p[right])}`;
  const rest = p.filter((_, j) => !c[j]).map((value) => ` − ln(1 − ${format(value)})`);
  const formula = kind === "one" ? first : first + rest.join("");
  form.querySelector("#error-formula").textContent = `E = ${formula} =`;
  show(form, "error", error);
};

/** How far p - c is from the slope, at most. */
const gap = ({ fused, difference }) =>
  Math.max(...fused.map((value, j) => Math.abs(value - difference[j])));

const verdict = (kind, s, right) => {
  const size = format(gap(links(s, right, ERRORS.two)));
  return kind === "one"
    ? "p − c holds: the chain rule, the fused form and finite differences all give it. " +
        `With two terms, at the same scores, it is off by up to ${size}.`
    : `p − c fails, by up to ${size}: it is what the diagonal alone gives. The chain rule needs the ` +
        "whole column, and finite differences confirm it. With one term p − c holds.";
};

/** What the layer says, and what it should say. */
const decision = ({ p }, right) => {
  const decided = maths.oneHot(p).indexOf(1);
  const share = (j) => `${CLASSES[j]} (${format(p[j])})`;
  return decided === right
    ? `The decision is ${share(right)}, which is right.`
    : `The decision is ${share(decided)}; right is ${share(right)}.`;
};

/** The call of the library that computes the same numbers. */
const inPython = (s, right, { loss }) =>
  `crossent.${loss}().chain_rule([[${s.join(", ")}]], [${right}])`;

figures.softmax = (form, settings) => {
  const { s1, s2, s3, s4, right, kind, column } = settings;
  const error = ERRORS[kind];
  const s = [s1, s2, s3, s4];
  const all = links(s, right, error);
  form.dataset.accent = error.style;
  fillClasses(form, all);
  errorSentence(form, kind, all, right);
  fillJacobian(form, all, column);
  fillGradients(form, all, column);
  spellOut(form, all, column);
  form.querySelector("#in-python").textContent = inPython(s, right, error);
  say(form, `${verdict(kind, s, right)} ${decision(all, right)}`);
};

/** Scores from -4 to 4 that depend on the seed alone. */
const drawScores = (form) => {
  const random = maths.uniform(Number(form.elements.seed.value), CLASSES.length);
  random.forEach((u, j) => (form.elements[`s${j + 1}`].value = (8 * u - 4).toFixed(1)));
};
