// Numbers: half floats, random ones as PyTorch and the kit draw them, and the product of two matrices.
'use strict';

const floatOfHalf = bits => {
  const sign = bits >> 15 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign*Infinity;
  return exponent ? sign*2**(exponent - 15)*(1 + fraction/1024) : sign*2**-24*fraction;
};

const bytesOf = base64 => {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
};

const floatsOf = base64 => new Float32Array(bytesOf(base64).buffer);

const halvesOf = parts => {                 // half floats, in texts one after another, as floats
  const table = Float32Array.from({length: 65536}, (_, bits) => floatOfHalf(bits));
  const each = parts.map(text => new Uint16Array(bytesOf(text).buffer));
  const out = new Float32Array(each.reduce((n, some) => n + some.length, 0));
  let at = 0;
  for (const some of each) for (const bits of some) out[at++] = table[bits];
  return out;
};

// Noise that is counted, not drawn: threefry-2x32 with 20 rounds, as lesson gpt.noise explains
const ROTATIONS = [[13, 15, 26, 6], [17, 29, 16, 24]];

const threefry = (a, b, c, d) => {          // two words of key, two of counter -> two random words
  const keys = [a, b, a ^ b ^ 0x1BD11BDA];
  let x = c + a | 0, y = d + b | 0;
  for (let group = 0; group < 5; group++) {
    for (const bits of ROTATIONS[group%2]) {
      x = x + y | 0;
      y = (y << bits | y >>> 32 - bits) ^ x;
    }
    x = x + keys[(group + 1)%3] | 0;
    y = y + keys[(group + 2)%3] + group + 1 | 0;
  }
  return [x >>> 0, y >>> 0];
};

const normalNoise = (out, seed, row, draw) => {      // fills out, as normal_noise(.., draw, seed=, first=row)
  for (let i = 0; i < out.length; i += 2) {
    const [x, y] = threefry(seed, row, i/2, draw);
    const radius = Math.sqrt(-2*Math.log((x + .5)/2**32)), angle = y*(2*Math.PI/2**32);
    out[i] = radius*Math.cos(angle);
    if (i + 1 < out.length) out[i + 1] = radius*Math.sin(angle);
  }
  return out;
};

// Untrained networks: PyTorch's generator on the CPU, mt19937 (Matsumoto & Nishimura 1998)
class Twister {
  constructor(seed) {
    this.state = new Uint32Array(624);
    this.state[0] = seed;
    for (let i = 1; i < 624; i++) {
      const before = this.state[i - 1];
      this.state[i] = Math.imul(1812433253, before ^ before >>> 30) + i;
    }
    this.at = 624;
  }
  turn() {
    const s = this.state;
    for (let i = 0; i < 624; i++) {
      const y = s[i] & 0x80000000 | s[(i + 1)%624] & 0x7fffffff;
      s[i] = s[(i + 397)%624] ^ y >>> 1 ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.at = 0;
  }
  uniform() {                               // 0..1, as torch.rand in single precision
    if (this.at === 624) this.turn();
    let y = this.state[this.at++];
    y ^= y >>> 11;
    y ^= y << 7 & 0x9d2c5680;
    y ^= y << 15 & 0xefc60000;
    y ^= y >>> 18;
    return (y & 0xffffff)/2**24;
  }
}

// The error function, within 1e-8: its integral by Simpson's rule at 257 places, a cubic between them
const ERF_STEP = 1/64, ERF_END = 4;
const [ERF_VALUES, ERF_SLOPES] = (() => {
  const n = ERF_END/ERF_STEP + 2, values = new Float64Array(n), slopes = new Float64Array(n);
  const slope = x => 2/Math.sqrt(Math.PI)*Math.exp(-x*x);
  for (let i = 0; i < n; i++) {
    const x = i*ERF_STEP;
    slopes[i] = slope(x);
    if (!i) continue;                       // Simpson's rule, from one to the next
    values[i] = values[i - 1] + ERF_STEP/6*(slopes[i - 1] + 4*slope(x - ERF_STEP/2) + slopes[i]);
  }
  return [values, slopes];
})();

const erf = x => {
  const size = Math.abs(x), sign = x < 0 ? -1 : 1;
  if (!(size < ERF_END)) return sign;
  const i = size/ERF_STEP | 0, t = size/ERF_STEP - i, u = 1 - t, v = ERF_VALUES, s = ERF_SLOPES;
  const near = u*u*((1 + 2*t)*v[i] + t*ERF_STEP*s[i]), far = t*t*((3 - 2*t)*v[i + 1] - u*ERF_STEP*s[i + 1]);
  return sign*(near + far);
};
const gelu = x => .5*x*(1 + erf(x*Math.SQRT1_2));
const silu = x => x/(1 + Math.exp(-x));
const sigmoid = x => 1/(1 + Math.exp(-x));
const softplus = x => x > 20 ? x : Math.log1p(Math.exp(x));

const readCurve = (x, xs, ys) => {          // as numpy.interp
  if (x <= xs[0]) return ys[0];
  for (let i = 1; i < xs.length; i++) {
    if (x > xs[i]) continue;
    return ys[i - 1] + (ys[i] - ys[i - 1])*(x - xs[i - 1])/(xs[i] - xs[i - 1]);
  }
  return ys[ys.length - 1];
};
