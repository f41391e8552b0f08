#!/usr/bin/env bash
# make demo: everything once, as a user would, on synthetic pages and a tiny random model. All of it goes into demo-out/.
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=demo-out
PAGES=64
HD_NUM=1          # one tile and the global view of a page, 313 tokens: fast on a CPU
PREVIEW_HD_NUM=16 # what the real model is usually trained with: 3 x 5 tiles, 2,353 tokens
EPOCHS=20
MEMORY=2GiB       # a hard cap on the CPU: one byte more, and the run would stop

# Threads that wait sleep instead of spinning: the picture workers, and whatever else runs here, want the cores too.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

bold() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }

# Shows a command as a user types it, and runs it.
lorafit() { { printf '$ npx lorafit'; quoted "$@"; echo; } >&2; node dist/cli/main.js "$@"; }

# Words as a shell reads them.
quoted() {
  local word
  for word; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,%+@-]+$ ]]; then printf ' %s' "$word"; else printf ' %s' "${word@Q}"; fi
  done
}

# fromJson FILE EXPRESSION: of the last line of JSON of a file, called `it`.
fromJson() {
  node -e 'const it = JSON.parse(require("fs").readFileSync(process.argv[1], "utf8").trim().split("\n").at(-1)); console.log(eval(process.argv[2]))' "$1" "$2"
}

score() { fromJson "$1" '`loss ${it.loss.toFixed(2)}, ${(100 * it.exactMatch).toFixed(0)}% of the answers exact, ANLS ${it.anls.toFixed(2)}`'; }

rm -rf "$OUT"
mkdir -p "$OUT"
started=$SECONDS

bold "1. $PAGES document pages at 3840 x 2160, with questions and answers"
lorafit pages --output $OUT/pages --count $PAGES

bold "2. A tiny 4KHD checkpoint: the official layout, random weights, a tokenizer of its own"
lorafit tiny --output $OUT/tiny --layers 2 --vision-hidden 32 --vision-layers 1 --vision-ffn 128

bold "3. What the model sees of a page at hd_num $PREVIEW_HD_NUM (the training below takes $HD_NUM, to be fast)"
lorafit preview --image $OUT/pages/images/page-0001.png --hd-num $PREVIEW_HD_NUM --out $OUT/preview

EVALUATE=(--data $OUT/pages/data.txt --hd-num $HD_NUM --answers --json)
bold "4. Before training: the model's answers are noise"
lorafit eval --model $OUT/tiny "${EVALUATE[@]}" > $OUT/before.jsonl
score $OUT/before.jsonl

bold "5. LoRA training on the CPU, within $MEMORY"
lorafit train --model $OUT/tiny --data $OUT/pages/data.txt --output $OUT/run --hd-num $HD_NUM --memory $MEMORY --epochs $EPOCHS \
  --gradient-accumulation 1 --keep all --lora-r 64 --learning-rate 1e-3 --warmup-steps 20 --weight-decay 0 --lora-dropout 0

bold "6. After training, on the same pages (a tiny model can do no more than learn pages by heart, here more than half of them)"
lorafit eval --model $OUT/tiny --adapter $OUT/run/adapter "${EVALUATE[@]}" > $OUT/after.jsonl
score $OUT/after.jsonl

bold "7. One question, answered; then by the merged checkpoint, which needs no adapter"
page=$OUT/pages/pages.json
question=$(node -e 'console.log(JSON.parse(require("fs").readFileSync(process.argv[1]))[0].conversations[0].value)' $page)
expected=$(node -e 'console.log(JSON.parse(require("fs").readFileSync(process.argv[1]))[0].conversations[1].value)' $page)
ASK=(--image $OUT/pages/images/page-0001.png --hd-num $HD_NUM --max-new-tokens 24 --prompt "$question")
lorafit generate --model $OUT/tiny --adapter $OUT/run/adapter "${ASK[@]}"
lorafit merge --model $OUT/tiny --adapter $OUT/run/adapter --output $OUT/merged
lorafit generate --model $OUT/merged "${ASK[@]}"
echo "expected: $expected"

bold "8. The run as a page"
lorafit report $OUT/run --out $OUT/report.html --preview $OUT/preview/page-0001-tiles.png \
  --evals $OUT/before.jsonl $OUT/after.jsonl --json > $OUT/summary.json

bold "Done in $((SECONDS - started)) s. All of it is in $OUT/"
fromJson $OUT/summary.json '`  loss of a step, mean of ${it.meanSteps}   ${it.firstLoss.toFixed(2)} -> ${it.lastLoss.toFixed(2)} in ${it.steps} steps, ${Math.round((1000 * it.tokens) / it.durationMs)} tokens/s
  most memory                 ${(it.peakBytes / 2 ** 20).toFixed(0)} MiB of the '$MEMORY' allowed`'
cat <<END
  before                      $(score $OUT/before.jsonl)
  after                       $(score $OUT/after.jsonl)

  $OUT/report.html                     the curves; open it in a browser
  $OUT/preview/page-0001-tiles.png     a page with its tiles
  $OUT/pages/                          the data set, in the official format
  $OUT/tiny/                           the base checkpoint
  $OUT/run/adapter/                    the adapter, as PEFT reads it
  $OUT/run/                            checkpoints, options, steps.jsonl
  $OUT/merged/                         base and adapter as one checkpoint
END
