// Writes tests/fixtures/tokenizer_gpt2.jsonl: hard texts and the ids that OpenAI's encoder gives them.
//
//   npm install tiktoken@1.0.22        in a folder of your own; then, there:
//   node /path/to/make_tokenizer_fixture.mjs > /path/to/tests/fixtures/tokenizer_gpt2.jsonl
//
// Each line is {"name", "text", "ids"}. The texts are fixed, or drawn from a generator with a fixed seed.
import { createRequire } from 'node:module';
const { get_encoding } = createRequire(process.cwd() + '/')('tiktoken');

const encoder = get_encoding('gpt2');
const out = (name, text) =>
  console.log(JSON.stringify({ name, text, ids: Array.from(encoder.encode_ordinary(text)) }));

let state = 12345;
const random = (n) => {  // xorshift: the same numbers everywhere
  state ^= state << 13; state ^= state >>> 17; state ^= state << 5;
  return (state >>> 0) % n;
};
const pick = (list) => list[random(list.length)];

out('known', 'hello world');
out('known', 'Hello, world. Is this-- a test?');
out('known', 'The quick brown fox jumps over the lazy dog.');
out('known', "I'm here — naïve café 東京 123,456\n\n  x = 1;\t");
out('prose', 'Call me Ishmael. Some years ago--never mind how long precisely--having little or no money in my purse, and ' +
  'nothing particular to interest me on shore, I thought I would sail about a little and see the watery part of the ' +
  "world. It is a way I have of driving off the spleen and regulating the circulation.\n\n\"WHALE. * * * It is more " +
  'immediately from the Dut. and Ger. WALLEN; A.S. WALW-IAN, to roll, to wallow."--RICHARDSON\'S DICTIONARY\n');
out('code', '#include <vector>\n\nint main(int argc, char** argv) {\n\tstd::vector<int> v{1, 2, 3};\n' +
  '\tfor (auto& x : v) x *= 0x7fff;  // 100%\n\treturn v[0] != 0 ? -1 : 0;\n}\n');
out('code', 'def f(self, *args, **kwargs):\n    if not args:\n        return {"a_b": [1e-5, None]}\n    ' +
  "return f'{args[0]!r:>10}'\n\n\n\nclass  X:\n        pass\n");
out('code', 'SELECT * FROM t WHERE id IN (1,2,3) AND name LIKE \'%o\'\'brien%\';\r\n\r\n-- done\r\n');
const scripts = {
  greek: 'Ἐν ἀρχῇ ἦν ὁ λόγος, καὶ ὁ λόγος ἦν πρὸς τὸν θεόν.', russian: 'Все счастливые семьи похожи друг на друга.',
  arabic: 'في البدء كان الكلمة، ١٢٣٤٥ والكلمة', hebrew: 'בְּרֵאשִׁית בָּרָא אֱלֹהִים אֵת הַשָּׁמַיִם', hindi: 'आदि में वचन था, १२३ और',
  thai: 'ในปฐมกาลพระวาทะทรงดำรงอยู่ ๑๒๓', chinese: '太初有道，道与神同在，道就是神。一二三', japanese: '初めに言があった。カタカナ ｶﾀｶﾅ',
  korean: '태초에 말씀이 계시니라', tamil: 'ஆதியிலே வார்த்தை இருந்தது', georgian: 'დასაბამიდან იყო სიტყვა',
  armenian: 'Սկզբում էր Բանը', amharic: 'በመጀመሪያው ቃል ነበረ።', mongolian: 'ᠮᠣᠩᠭᠣᠯ', cherokee: 'ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ', tibetan: 'བོད་སྐད་',
  gothic: '𐌰𐌽𐌰𐍃𐍄𐍉𐌳𐌴𐌹𐌽𐍃', cuneiform: '𒀭𒂗𒆤 𒐕𒐖', vietnamese: 'Ban đầu có Ngôi Lời, Ngôi Lời ở cùng Đức Chúa Trời',
  mathematics: '∀x∈ℝ: x² ≥ 0, ½ + ⅓ = ⅚, Ⅻ ①②③ 𝔸𝕓𝒸 𝟙𝟚', combining: 'e\u0301 n\u0303 Z\u0351\u036b a\u200db \u0915\u094d\u0937',
  quotes: '‘single’ “double” «guillemets» ‹x› „low“ it’s don’t', currency: '€5 £6 ¥7 ₹8 ₿9 $1.00',
};
for (const [name, text] of Object.entries(scripts)) out(name, text);
out('emoji', '😀😃 👩‍👩‍👧‍👦 🇩🇪🇫🇷 ❤️ 👍🏽x 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ☺︎');
out('contractions', "I'm you're he's we've they'll I'd don't 's 't 're 've 'm 'll 'd I'M YOU'RE 'S 'sx 'tree 'r 'l 'v '");
out('contractions', "''s '''re x'll''d !'s  's\n's\t't 1's 's1 'll've é's's (don't) 'Tis 'twas rock'n'roll o'clock l'été");
for (const n of [1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 100, 255, 1000])
  for (const c of [' ', '\n', '\t', '-', 'a', '0', '=', '\u3000'])
    if (n < 200 || ' -a'.includes(c)) out('run', `x${c.repeat(n)}y${c.repeat(n)} ${c.repeat(n)}`);
out('blanks', ' \t\n\v\f\r\u0085\u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000x \u200b\u2060\ufeff\u180e\u001c\u001f x');
out('blanks', 'a\u00a0b a \u00a0b a\u00a0 b\u00a0 \u00a0\n\u2003c  \n  d \n e\r\n\r\nf\t g \t h\u0085i');
out('new in Unicode 16', "x!\u1c89? \u{10d40}'s a\ua7cbb \u{16d70}1 !\u{105c0}!");
out('end of text', 'text <|endoftext|> is plain text here <|endoftext|>');
out('controls', Array.from({ length: 33 }, (_, i) => String.fromCharCode(i) + 'a').join('') + '\x7f\x80\x9f\xad');
out('long word', 'Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft');
out('long word', 'pneumonoultramicroscopicsilicovolcanoconiosis'.repeat(5));
out('long word', 'MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA' + 'aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5z'.repeat(4));

// Every general category: some code points of each, alone and between letters, digits, blanks and apostrophes.
for (const category of 'Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co'.split(' ')) {
  const test = new RegExp(`^\\p{${category}}$`, 'u');
  const points = [];
  for (let p = 0; p < 0x20000; ++p) if (test.test(String.fromCodePoint(p))) points.push(String.fromCodePoint(p));
  let text = '';
  for (let i = 0; i < 12; ++i) {
    const c = pick(points);
    text += `a${c}b ${c} 1${c}2 ${c}${c}'s!${c}?  ${c}\n${c}`;
  }
  out(`category ${category}`, text);
}

// Soup of what trips scanners.
const parts = [' ', '  ', '   ', '\n', '\n\n', '\t', '\r\n', "'", "''", "'s", "'re", "'ll", "'ve", "'m", "'t", "'d", "'S", 'a',
  'the', 'The', 'Ünï', 'é', '1', '23', '٣', '½', '.', '...', '!', '?!', '-', '--', '_', '(', ')', '\u00a0', '\u2003', '\u3000',
  '中', '文字', 'ж', '😀', '\u0301', '\u200d', '\ufeff', '€', '$', '<|endoftext|>', '\u0000', '\u007f', '\ud7ff', '\ue000', '\u{10ffff}'];
for (let i = 0; i < 150; ++i) {
  let text = '';
  for (let n = 1 + random(40); n > 0; --n) text += pick(parts);
  out('soup', text);
}
