#!/usr/bin/env node
// Writes a text column of Parquet files as JSON lines, a row group at a time, for ./prepare_data --input -.
//
//   npm install --prefix build/npm hyparquet@1.33.0 hyparquet-compressors@1.1.2     once
//   node scripts/parquet_text.mjs [--field text] FILE... | ./prepare_data --input - --stdin-format jsonl --output DIR
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const usage = 'Usage: node scripts/parquet_text.mjs [--field NAME] FILE...'

class UserError extends Error {}

function parse(words) {
  const options = { field: 'text', files: [] }
  for (let i = 0; i < words.length; ++i) {
    if (words[i] === '--help' || words[i] === '-h') {
      console.log(usage)
      process.exit(0)
    } else if (words[i] === '--field') {
      options.field = words[++i]
      if (!options.field) throw new UserError('--field: needs a name')
    } else if (words[i].startsWith('-')) {
      throw new UserError(`${words[i]}: is not an option; ${usage}`)
    } else {
      options.files.push(words[i])
    }
  }
  if (options.files.length === 0) throw new UserError(`no files; ${usage}`)
  return options
}

async function load(name, file) {
  const top = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
  const module = path.join(top, 'build/npm/node_modules', name, file)
  if (!existsSync(module))
    throw new UserError(`${name} is not installed: npm install --prefix build/npm hyparquet@1.33.0 hyparquet-compressors@1.1.2`)
  return import(pathToFileURL(module))
}

// What goes to a pipe whose reader is slow waits for it.
async function write(text) {
  if (!process.stdout.write(text)) await once(process.stdout, 'drain')
}

async function convert(file, field, { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects }, compressors) {
  const buffer = await asyncBufferFromFile(file)
  const metadata = await parquetMetadataAsync(buffer)
  const columns = metadata.schema.slice(1).filter(element => element.type !== undefined).map(element => element.name)
  if (!columns.includes(field)) throw new UserError(`no column '${field}'; there are: ${columns.join(', ')}`)
  let begin = 0
  for (const group of metadata.row_groups) {
    const end = begin + Number(group.num_rows)
    const rows = await parquetReadObjects(
      { file: buffer, metadata, columns: [field], rowStart: begin, rowEnd: end, compressors })
    for (let first = 0; first < rows.length; first += 1000) {
      const block = rows.slice(first, first + 1000)
      await write(block.map(row => JSON.stringify({ text: row[field] ?? '' }) + '\n').join(''))
    }
    begin = end
  }
}

process.stdout.on('error', error => process.exit(error.code === 'EPIPE' ? 0 : 1))
let place = ''
try {
  const { field, files } = parse(process.argv.slice(2))
  const reader = await load('hyparquet', 'src/node.js')
  const { compressors } = await load('hyparquet-compressors', 'src/index.js')
  for (const file of files) {
    place = `${file}: `
    await convert(file, field, reader, compressors)
  }
} catch (error) {
  const why = error instanceof UserError ? error.message
    : error.code === 'ENOENT' ? 'no such file' : `cannot be read as Parquet: ${error.message}`
  console.error(`parquet_text.mjs: ${place}${why}`)
  process.exitCode = 1
  // So that a reader at the other end of a pipe does not take this for the end of the text.
  if (place && !process.stdout.isTTY) process.stdout.write('parquet_text.mjs failed\n')
}
