// The product of two matrices: WebAssembly, put together here byte by byte, or plain JavaScript without it.
'use strict';

// c[m, n] = bias[n] + a[m, k] b[k, n]; b lies in panels of eight columns, n is a multiple of eight.
// a, b, c and bias are places in memory, lda and ldc the bytes from row to row.
const productCode = () => {
  const unsigned = n => n < 128 ? [n] : [n & 127 | 128, ...unsigned(n >>> 7)];
  const given = ['a', 'b', 'c', 'm', 'k', 'n', 'bias', 'lda', 'ldc'];
  const whole = ['i', 'rows', 'pa', 'pb', 'pc', 'a0', 'a1', 'a2', 'a3'];
  const four = ['h0', 'h1', 'b0', 'b1', 'x', ...[0, 1, 2, 3].flatMap(r => [`s${r}`, `t${r}`])];
  const names = [...given, ...whole, ...four];
  const get = name => [0x20, names.indexOf(name)];
  const set = (name, ...v) => [...v.flat(), 0x21, names.indexOf(name)];
  const number = n => [0x41, n], add = (u, v) => [...u, ...v, 0x6a];
  const step = (name, by) => set(name, add(get(name), by)), less = (u, v) => [...u, ...v, 0x48];
  const block = (...body) => [0x02, 0x40, ...body.flat(), 0x0b];
  const loop = (...body) => [0x03, 0x40, ...body.flat(), 0x0b];
  const leaveIf = (depth, v) => [...v, 0x0d, depth], again = [0x0c, 0];
  const simd = code => [0xfd, ...unsigned(code)];
  const load = (at, offset = 0) => [...get(at), ...simd(0x00), 2, offset];          // v128.load
  const store = (v, offset) => [...get('pc'), ...get(v), ...simd(0x0b), 2, offset];
  const spread = at => [...get(at), ...simd(0x09), 2, 0];                           // v128.load32_splat
  const times = v => [...get('x'), ...get(v), ...simd(0xe6)];                       // f32x4.mul
  const gather = (sum, v) => set(sum, get(sum), times(v), simd(0xe4));              // f32x4.add
  const tile = height => {                  // so many rows of a, eight columns of b
    const all = [...Array(height).keys()];
    return [
      set('i', get('k')), set('pb', get('b')),
      ...all.map(r => set(`a${r}`, r ? add(get(`a${r - 1}`), get('lda')) : get('pa'))),
      ...all.flatMap(r => [set(`s${r}`, get('h0')), set(`t${r}`, get('h1'))]),
      loop(
        set('b0', load('pb')), set('b1', load('pb', 16)),
        ...all.flatMap(r => [set('x', spread(`a${r}`)), gather(`s${r}`, 'b0'), gather(`t${r}`, 'b1'),
                             step(`a${r}`, number(4))]),
        step('pb', number(32)), step('i', number(-1 & 127)), leaveIf(0, get('i'))),
      ...all.flatMap(r => [store(`s${r}`, 0), store(`t${r}`, 16), step('pc', get('ldc'))]),
      set('pa', add(get(`a${height - 1}`), [...get('lda'), ...get('k'), ...number(2), 0x74, 0x6b])),
      step('rows', number(-height & 127)), again].flat();
  };
  const body = [
    loop(
      set('h0', load('bias')), set('h1', load('bias', 16)),
      set('pa', get('a')), set('pc', get('c')), set('rows', get('m')),
      block(loop(leaveIf(1, less(get('rows'), number(4))), tile(4))),
      block(loop(leaveIf(1, [...get('rows'), 0x45]), tile(1))),
      step('b', [...get('k'), ...number(5), 0x74]), step('bias', number(32)), step('c', number(32)),
      step('n', number(-8 & 127)), leaveIf(0, get('n'))), 0x0b].flat();
  const text = s => [s.length, ...[...s].map(c => c.charCodeAt(0))];
  const section = (id, ...bytes) => [id, ...unsigned(bytes.flat().length), ...bytes.flat()];
  const locals = [2, whole.length, 0x7f, four.length, 0x7b], size = unsigned(locals.length + body.length);
  return new Uint8Array([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    section(1, 1, 0x60, given.length, ...given.map(() => 0x7f), 0),     // a function's type
    section(2, 1, text('page'), text('memory'), 2, 0, 1),               // memory comes from outside
    section(3, 1, 0), section(7, 1, text('product'), 0, 0),
    section(10, 1, size, locals, body)].flat(2));
};

// The same, with places as in WebAssembly
const plainProduct = memory => (a, b, c, m, k, n, bias, lda, ldc) => {
  const f = new Float32Array(memory);
  [a, b, c, bias, lda, ldc] = [a, b, c, bias, lda, ldc].map(place => place/4);
  for (let panel = 0; panel < n; panel += 8) for (let i = 0; i < m; i++) {
    const from = a + i*lda, to = c + i*ldc + panel;
    for (let q = 0; q < 8; q++) f[to + q] = f[bias + panel + q];
    for (let p = 0, pb = b + panel*k; p < k; p++, pb += 8) {
      const x = f[from + p];
      for (let q = 0; q < 8; q++) f[to + q] += x*f[pb + q];
    }
  }
};

// Memory in which matrices lie, and what multiplies them there
class Desk {
  constructor(floats, plain = false) {
    const pages = Math.ceil(floats/16384) + 1;
    this.taken = 0;
    try {
      if (plain) throw Error('plain');
      const memory = new WebAssembly.Memory({initial: pages});
      const module = new WebAssembly.Module(productCode());
      const made = new WebAssembly.Instance(module, {page: {memory}});
      this.f = new Float32Array(memory.buffer);
      this.multiply = made.exports.product;
      this.engine = 'WebAssembly';
    } catch {                               // an old browser, or one that forbids it
      this.f = new Float32Array(pages*16384);
      this.multiply = plainProduct(this.f.buffer);
      this.engine = 'JavaScript';
    }
  }
  take(n) {                                 // a place for so many floats
    const at = this.taken;
    this.taken += up8(n);
    if (this.taken > this.f.length) throw Error(`${this.taken} floats do not fit into ${this.f.length}`);
    return at;
  }
  product(a, matrix, c, m, {lda = matrix.k, ldc = matrix.n8} = {}) {
    this.multiply(4*a, 4*matrix.at, 4*c, m, matrix.k, matrix.n8, 4*matrix.bias, 4*lda, 4*ldc);
  }
  room(k, n) { return {k, n, n8: up8(n), at: this.take(k*up8(n)), bias: this.take(n)}; }    // of a matrix
  pack(matrix, from, down, across) {        // what lies so far apart from row to row and column to column
    const {k, n, n8, at} = matrix, {f} = this;
    let to = at;
    for (let panel = 0; panel < n8; panel += 8) {
      const first = from + panel*across, last = Math.min(8, n - panel);
      for (let p = 0; p < k; p++, to += 8) {
        for (let q = 0, place = first + p*down; q < last; q++, place += across) f[to + q] = f[place];
        for (let q = last; q < 8; q++) f[to + q] = 0;
      }
    }
  }
  fill(matrix, value, bias = () => 0) {     // value(k, n) -> panels of eight columns
    const {k, n, n8, at} = matrix;
    let to = at;
    for (let panel = 0; panel < n8; panel += 8) for (let p = 0; p < k; p++) {
      for (let q = panel; q < panel + 8; q++) this.f[to++] = q < n ? value(p, q) : 0;
    }
    for (let q = 0; q < n8; q++) this.f[matrix.bias + q] = q < n ? bias(q) : 0;
    return matrix;
  }
}
const up8 = n => n + 7 & ~7;
