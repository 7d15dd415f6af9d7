"use strict";

/*
 * The mathematics of the page, and nothing else: numbers in, numbers out, no document.
 *
 * z or s are scores (logits), a or p the outputs made of them, y or c the targets. Logarithms are
 * natural, so every error is in nats. Tests compare each function with reference.py and, where
 * reference.py stops, with mpmath.
 *
 * One idea keeps both tails exact: nothing is ever subtracted from 1. The sigmoid's 1 - a is
 * sigmoid(-z); and a softmax output is the sigmoid of its log-odds against all the other classes,
 * so 1 - p has the same cure.
 */
const maths = (() => {
  const sum = (values) => values.reduce((total, value) => total + value, 0);

  // Activations and the decision ----------------------------------------------------------------

  /** a = 1 / (1 + exp(-z)). */
  const sigmoid = (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));

  /** da/dz = a (1 - a). */
  const sigmoidPrime = (z) => sigmoid(z) * sigmoid(-z);

  /** ln(1 + exp(z)): what probability sigmoid(-z) costs. */
  const softplus = (z) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));

  /** ln sum_j exp(s_j). */
  const logsumexp = (s) => {
    const largest = Math.max(...s);
    return largest + Math.log(sum(s.map((score) => Math.exp(score - largest))));
  };

  /** l_j = ln(p_j / (1 - p_j)): the score of each class against all the others together. */
  const logOdds = (s) =>
    s.map((score, j) => -logsumexp(s.filter((_, i) => i !== j).map((other) => other - score)));

  /** p_j = exp(s_j) / sum_k exp(s_k). */
  const softmax = (s) => logOdds(s).map(sigmoid);

  /** 1 for the largest output (the first of equals), else 0. */
  const oneHot = (p) => p.map((_, j) => (j === p.indexOf(Math.max(...p)) ? 1 : 0));

  // Errors of one sample, from scores -----------------------------------------------------------

  /** weight * cost, where an event that did not happen is free whatever it would have cost. */
  const term = (weight, cost) => (weight === 0 ? 0 : weight * cost);

  /** -[y ln a + (1 - y) ln(1 - a)] with a = sigmoid(z). */
  const binaryCrossEntropy = (z, y) => term(y, softplus(-z)) + term(1 - y, softplus(z));

  /** 1/2 (a - y)^2 with a = sigmoid(z). */
  const quadraticCost = (z, y) => 0.5 * difference(z, y) ** 2;

  /** -sum_j c_j ln p_j with p = softmax(s): the one-term error. */
  const crossEntropy = (s, c) => sum(logOdds(s).map((l, j) => term(c[j], softplus(-l))));

  /** -sum_j [c_j ln p_j + (1 - c_j) ln(1 - p_j)] with p = softmax(s): the two-term error. */
  const twoTermCrossEntropy = (s, c) => sum(logOdds(s).map((l, j) => binaryCrossEntropy(l, c[j])));

  // The links of the chain rule -----------------------------------------------------------------

  /** a - y with a = sigmoid(z), as (1 - y) a - y (1 - a). */
  const difference = (z, y) => (1 - y) * sigmoid(z) - y * sigmoid(-z);

  /** dE/da = (1 - y) / (1 - a) - y / a. */
  const binaryCrossEntropyByOutput = (z, y) =>
    term(1 - y, 1 / sigmoid(-z)) - term(y, 1 / sigmoid(z));

  /** dE/dp_j = -c_j / p_j. */
  const crossEntropyByOutput = (s, c) => logOdds(s).map((l, j) => -term(c[j], 1 / sigmoid(l)));

  /** dE/dp_j = (1 - c_j) / (1 - p_j) - c_j / p_j. */
  const twoTermByOutput = (s, c) => logOdds(s).map((l, j) => binaryCrossEntropyByOutput(l, c[j]));

  /** dp_i/ds_j = p_i (1[i = j] - p_j), row i, column j. */
  const softmaxJacobian = (s) => {
    const odds = logOdds(s);
    const p = odds.map(sigmoid);
    return p.map((pi, i) => p.map((pj, j) => (i === j ? sigmoidPrime(odds[i]) : -pi * pj)));
  };

  /** The terms dE/dp_i dp_i/ds_j of the chain rule; their sum over the rows i is dE/ds_j. */
  const chainTerms = (outer, jacobian) => jacobian.map((row, i) => row.map((d) => outer[i] * d));

  /** dE/ds_j: every column of the terms added up. */
  const chain = (outer, jacobian) => {
    const terms = chainTerms(outer, jacobian);
    return jacobian.map((_, j) => sum(terms.map((row) => row[j])));
  };

  // The simplified gradients in the scores ------------------------------------------------------

  /** dE/dz = a - y: sigma' has cancelled. */
  const binaryCrossEntropyGradient = difference;

  /** dC/dz = (a - y) a (1 - a): sigma' has stayed. */
  const quadraticCostGradient = (z, y) => difference(z, y) * sigmoidPrime(z);

  /** dE/ds = p - c, for targets that sum to 1. */
  const crossEntropyGradient = (s, c) => logOdds(s).map((l, j) => difference(l, c[j]));

  /** dE/ds_k = u_k - p_k sum_j u_j with u = (p - c) / (1 - p) = (1 - c) exp(l) - c. */
  const twoTermGradient = (s, c) => {
    const odds = logOdds(s);
    const u = odds.map((l, j) => term(1 - c[j], Math.exp(l)) - c[j]);
    const others = (k) => sum(u.filter((_, j) => j !== k));
    return odds.map((l, k) => difference(l, c[k]) - sigmoid(l) * others(k));
  };

  /** The slope of error(s) in each score from two values on either side of it. */
  const finiteDifferences = (error, s, step = 1e-5) =>
    s.map((_, k) => {
      const moved = (by) => error(s.map((score, j) => (j === k ? score + by : score)));
      return (moved(step) - moved(-step)) / (2 * step);
    });

  // One neuron with input 1, trained by gradient descent -------------------------------------------

  /** The scores z = w + b at epochs 0 to `epochs`, each epoch one step of -rate * gradient(z, y). */
  const descend = ({ weight, bias, rate, target, epochs, gradient }) => {
    const scores = [weight + bias];
    for (let epoch = 0; epoch < epochs; epoch++) {
      const slope = gradient(weight + bias, target);
      weight -= rate * slope;
      bias -= rate * slope;
      scores.push(weight + bias);
    }
    return scores;
  };

  /** The first epoch at which the output is on the target's side of 1/2, or -1. */
  const crossing = (scores, target) => scores.findIndex((z) => z * (target - 0.5) > 0);

  // The same error in float32, every step rounded as a processor rounds it ---------------------------

  const round = Math.fround;
  const exp32 = (x) => round(Math.exp(x));
  const log32 = (x) => round(Math.log(x));
  const sum32 = (values) => values.reduce((total, value) => round(total + value), 0);

  /** exp(s_j - max s) in float32, and the target's exponential apart from the others. */
  const shifted32 = (scores, target) => {
    const s = scores.map(round);
    const largest = Math.max(...s);
    const e = s.map((score) => exp32(round(score - largest)));
    const others = e.filter((_, j) => j !== target);
    return { score: s[target], largest, own: e[target], others };
  };

  const float32 = {
    /** logsumexp(s) - s_y: the two nearly equal numbers cancel. */
    lossByLogsumexp(scores, target) {
      const { score, largest, own, others } = shifted32(scores, target);
      return round(round(largest + log32(sum32([own, ...others]))) - score);
    },
    /** ln(sum_j exp(s_j - max s)) - (s_y - max s): better, but 1 + others still rounds to 1. */
    lossByLogSoftmax(scores, target) {
      const { score, largest, own, others } = shifted32(scores, target);
      return round(log32(sum32([own, ...others])) - round(score - largest));
    },
    /** p_y - 1. */
    gradientBySubtraction(scores, target) {
      const { own, others } = shifted32(scores, target);
      return round(round(own / sum32([own, ...others])) - 1);
    },
    /** log1p(others) for the largest score, max s - s_y + ln(sum) for any other; sums in float64. */
    loss(scores, target) {
      const { score, largest, own, others } = shifted32(scores, target);
      if (score === largest) return round(Math.log1p(sum(others)));
      return round(largest - score + Math.log(own + sum(others)));
    },
    /** -others / (others + own), the sum in float64. */
    gradient(scores, target) {
      const { own, others } = shifted32(scores, target);
      return -round(sum(others) / (own + sum(others)));
    },
  };

  // Chance, repeatable --------------------------------------------------------------------------

  /** `count` numbers in [0, 1) that depend on the seed alone (a Weyl sequence, scrambled). */
  const uniform = (seed, count) =>
    Array.from({ length: count }, (_, i) => {
      let x = Math.imul(seed, 0x9e3779b1) + Math.imul(i + 1, 0x6d2b79f5);
      x = Math.imul(x ^ (x >>> 15), 0x2c1b3c6d);
      x = Math.imul(x ^ (x >>> 12), 0x297a2d39);
      return ((x ^ (x >>> 15)) >>> 0) / 2 ** 32;
    });

  return {
    sigmoid,
    sigmoidPrime,
    logsumexp,
    softmax,
    oneHot,
    binaryCrossEntropy,
    quadraticCost,
    crossEntropy,
    twoTermCrossEntropy,
    difference,
    binaryCrossEntropyByOutput,
    crossEntropyByOutput,
    twoTermByOutput,
    softmaxJacobian,
    chainTerms,
    chain,
    binaryCrossEntropyGradient,
    quadraticCostGradient,
    crossEntropyGradient,
    twoTermGradient,
    finiteDifferences,
    descend,
    crossing,
    float32,
    uniform,
  };
})();
