#!/usr/bin/env bash
# make demo: every command once, as a user would run it, on synthetic pages and a tiny random model. Output: demo-out/.
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=demo-out
PAGES=64
EVALUATED=8   # of these pages, for the evaluations during training
HD_NUM=1      # one tile and the global view of a page, 313 tokens: fast on a CPU
EPOCHS=20
EVAL_EVERY=128
MEMORY=32MiB  # little more than the run needs; a hard cap on a CPU

# Waiting threads sleep instead of spinning, because the picture workers need the cores too.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

bold() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }

# Shows a command as a user types it, then runs it.
lorafit() { { printf '$ npx lorafit'; quoted "$@"; echo; } >&2; node dist/cli/main.js "$@"; }

# Quotes words as a shell needs them.
quoted() {
  local word
  for word; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,%+@-]+$ ]]; then printf ' %s' "$word"; else printf ' %s' "${word@Q}"; fi
  done
}

# fromJson FILE EXPRESSION: evaluates the expression; `it` is the file's last line of JSON.
fromJson() {
  node -e 'const it = JSON.parse(require("fs").readFileSync(process.argv[1], "utf8").trim().split("\n").at(-1)); console.log(eval(process.argv[2]))' "$1" "$2"
}

score() { fromJson "$1" '`loss ${it.loss.toFixed(2)}, ${(100 * it.exactMatch).toFixed(0)}% of the answers exact, ANLS ${it.anls.toFixed(2)}`'; }

rm -rf "$OUT"
mkdir -p "$OUT"
started=$SECONDS

bold "1. Draw $PAGES document pages at 3840 x 2160, with questions and answers"
lorafit pages --output $OUT/pages --count $PAGES
node -e 'const fs = require("fs"); const [from, to, count] = process.argv.slice(1); fs.writeFileSync(to, JSON.stringify(JSON.parse(fs.readFileSync(from)).slice(0, Number(count))))' \
  $OUT/pages/pages.json $OUT/pages/evaluated.json $EVALUATED

bold "2. Make a tiny 4KHD checkpoint: official layout, random weights, its own tokenizer"
lorafit tiny --output $OUT/tiny --layers 2 --vision-hidden 32 --vision-layers 1 --vision-ffn 128

bold "3. Preview a page as the model will see it, at hd_num $HD_NUM (real training uses 16 to 55)"
lorafit preview --image $OUT/pages/images/page-0001.png --hd-num $HD_NUM --out $OUT/preview

EVALUATE=(--data $OUT/pages/data.txt --hd-num $HD_NUM --answers --json)
bold "4. Score the model before training: its answers are noise"
lorafit eval --model $OUT/tiny "${EVALUATE[@]}" > $OUT/before.jsonl
score $OUT/before.jsonl

bold "5. Train with LoRA on the CPU, within $MEMORY, with evaluations on $EVALUATED of the pages"
lorafit train --model $OUT/tiny --data $OUT/pages/data.txt --output $OUT/run --hd-num $HD_NUM --memory $MEMORY --epochs $EPOCHS \
  --eval-data $OUT/pages/evaluated.json --eval-every $EVAL_EVERY --gradient-accumulation 1 --keep all --lora-r 64 --learning-rate 1e-3 --warmup-steps 20 --weight-decay 0 --lora-dropout 0

bold "6. Score it after training, on the same pages (a tiny model can only learn pages by heart)"
lorafit eval --model $OUT/tiny --adapter $OUT/run/adapter "${EVALUATE[@]}" > $OUT/after.jsonl
score $OUT/after.jsonl

bold "7. Ask one question, with the adapter; merge; ask the merged checkpoint, which needs no adapter"
page=$OUT/pages/pages.json
question=$(node -e 'console.log(JSON.parse(require("fs").readFileSync(process.argv[1]))[0].conversations[0].value)' $page)
expected=$(node -e 'console.log(JSON.parse(require("fs").readFileSync(process.argv[1]))[0].conversations[1].value)' $page)
ASK=(--image $OUT/pages/images/page-0001.png --hd-num $HD_NUM --max-new-tokens 24 --prompt "$question")
lorafit generate --model $OUT/tiny --adapter $OUT/run/adapter "${ASK[@]}"
lorafit merge --model $OUT/tiny --adapter $OUT/run/adapter --output $OUT/merged
lorafit generate --model $OUT/merged "${ASK[@]}"
echo "expected: $expected"

bold "8. Write the run as a page"
lorafit report $OUT/run --out $OUT/report.html --preview $OUT/preview/page-0001-tiles.png \
  --evals $OUT/before.jsonl $OUT/after.jsonl --json > $OUT/summary.json

bold "Done in $((SECONDS - started)) s. All results are in $OUT/"
fromJson $OUT/summary.json '`  loss of a step, mean of ${it.meanSteps}   ${it.firstLoss.toFixed(2)} -> ${it.lastLoss.toFixed(2)} in ${it.steps} steps, ${Math.round((1000 * it.tokens) / it.durationMs)} tokens/s
  peak memory                 ${(it.peakBytes / 2 ** 20).toFixed(0)} MiB, limit '$MEMORY'`'
cat <<END
  before                      $(score $OUT/before.jsonl)
  after                       $(score $OUT/after.jsonl)

  $OUT/report.html                     the run's curves and answers; open it in a browser
  $OUT/preview/page-0001-tiles.png     a page with its tiles
  $OUT/pages/                          the data set, in the official format
  $OUT/tiny/                           the base checkpoint
  $OUT/run/adapter/                    the adapter, as PEFT reads it
  $OUT/run/                            checkpoints, options, steps.jsonl
  $OUT/merged/                         base and adapter as one checkpoint
END
