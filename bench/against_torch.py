#!/usr/bin/env python3
"""Compares `bench` with PyTorch on this machine, case by case, in alternation.

usage: against_torch.py BENCH VENV [--case NAME]... [--variant NAME]... [--device cpu|cuda]
       [--precision float32|bfloat16] [--threads N] [--rounds N] [--calls N] [--raw FILE] [--write]

A round of a case runs every variant of the peer (on the CPU: fused attention and plain, channels-last and contiguous,
compiled and not; on a GPU: eager, compiled, compiled with CUDA graphs) and dattn, one process each, one after the
other; which of the two sides begins alternates. After the first round only the peer's two fastest variants go on;
--variant names those that run at all, where the slow ones are known. Figures are medians over rounds of each process's
own median; where no variant of the peer can run a case, dattn's stand alone. --write puts the table into
docs/performance.md and the raw lines into bench/results/; --raw adds them to a file as they come. On a GPU a second
table has every variant with its peak of memory. SIGTERM ends the run with the tables of the cases that are done.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys

FOLDER = pathlib.Path(__file__).resolve().parent
ON_CPU = {
    'fused': [],
    'fused contiguous': ['--contiguous'],
    'plain': ['--plain'],
    'compiled': ['--compile'],
    'compiled contiguous': ['--compile', '--contiguous'],
}
WITHOUT_ATTENTION = ['fused', 'fused contiguous', 'compiled', 'compiled contiguous']
ON_CUDA = {
    'eager': [],
    'compiled': ['--compile'],
    'compiled, graphs': ['--compile', 'reduce-overhead'],
}
BEGIN, END = '<!-- against torch: begin -->', '<!-- against torch: end -->'


def lines_of(command):
    """The JSON lines that a command prints; none where it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        print(f'  failed: {" ".join(map(str, command))}\n  {done.stderr.strip().splitlines()[-1:]}', file=sys.stderr)
        return []
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]


class Comparison:
    def __init__(self, options):
        self.options = options
        variants = ON_CPU if options.device == 'cpu' else ON_CUDA
        self.variants = {name: variants[name] for name in options.variant or variants}
        self.raw = []

    def ours(self, case):
        o = self.options
        command = [o.bench, '--case', case, '--json', '--rounds', str(o.calls), '--threads', str(o.threads), '--device',
                   o.device, '--precision', o.precision]
        return self.timed('dattn', command)

    def peers(self, case, variant):
        o = self.options
        command = [o.venv / 'torch-python', FOLDER / 'peer' / 'bench_torch.py', case, '--threads', str(o.threads),
                   '--rounds', str(o.calls), '--device', o.device, '--dtype', o.precision, *self.variants[variant]]
        return self.timed(variant, command)

    def timed(self, side, command):
        for line in lines_of(command):
            self.raw.append({'side': side, **line})
            if self.options.raw:
                with self.options.raw.open('a') as file:
                    file.write(json.dumps(self.raw[-1]) + '\n')
            return line
        return None

    def case(self, case):
        variants = list(self.variants)
        if self.options.device == 'cpu' and case.startswith(('conv_', 'plain_')):
            variants = [name for name in WITHOUT_ATTENTION if name in self.variants]
        ours, peers = [], {}
        for number in range(self.options.rounds):
            sides = [('dattn', None)] + [('torch', v) for v in variants]
            for side, variant in sides if number % 2 == 0 else reversed(sides):
                line = self.ours(case) if side == 'dattn' else self.peers(case, variant)
                if line and side == 'dattn':
                    ours.append(line)
                elif line:
                    peers.setdefault(variant, []).append(line)
            variants = sorted(peers, key=lambda v: median(peers[v], measure(peers[v])))[:2]
        return row(case, ours, peers) if ours else None


def measure(lines):
    """What a case is judged by: a whole step, or forward where it is inference."""
    return 'forward_ms' if lines[0]['step_ms'] is None else 'step_ms'


def median(lines, key):
    return statistics.median(line[key] for line in lines)


def spread(lines):
    """Half the range, in percent of the median; of one round there is none."""
    values = [line[measure(lines)] for line in lines]
    return f'{50 * (max(values) - min(values)) / statistics.median(values):.0f}' if len(values) > 1 else '-'


def row(case, ours, peers):
    if not peers:
        step = f"{median(ours, 'step_ms'):.4g}" if measure(ours) == 'step_ms' else '-'
        return [case, f"{median(ours, 'floor_ms'):.3g}", '-', '-', step, '-', f'- / {spread(ours)}', '-',
                f"{median(ours, 'forward_ms'):.4g}", '-']
    best = min(peers, key=lambda v: median(peers[v], measure(ours)))
    best_forward = min(peers, key=lambda v: median(peers[v], 'forward_ms'))
    steps = ['-', best, '-', '-']
    if measure(ours) == 'step_ms':
        step, peer_step = median(ours, 'step_ms'), median(peers[best], 'step_ms')
        steps = [f'{peer_step:.4g}', best, f'{step:.4g}', f'{peer_step / step:.2f}']
    forward, peer_forward = median(ours, 'forward_ms'), median(peers[best_forward], 'forward_ms')
    return [case, f"{median(ours, 'floor_ms'):.3g}", *steps, f'{spread(peers[best])} / {spread(ours)}',
            f'{peer_forward:.4g}', f'{forward:.4g}', f'{peer_forward / forward:.2f}']


HEADER = ['case', 'floor, ms', "peer's best step, ms", 'which', 'step, ms', 'ratio', 'spread, %', "peer's forward, ms",
          'forward, ms', 'ratio']


def every_side(raw):
    """Rows of SIDES: medians of each case and side."""
    groups = {}
    for line in raw:
        groups.setdefault((line['case'], line['side']), []).append(line)
    def text(lines, key):
        return '-' if lines[0].get(key) is None else f'{median(lines, key):.4g}'
    return [[case, side, *(text(lines, key) for key in ('step_ms', 'forward_ms', 'peak_mb'))]
            for (case, side), lines in groups.items()]


SIDES = ['case', 'side', 'step, ms', 'forward, ms', 'peak, MB']


def table(rows, head=HEADER, left=(0, 3)):
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    def line(cells):
        return '| ' + ' | '.join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))) + ' |'
    rule = '|' + '|'.join('-' * (w + 2) if i in left else '-' * (w + 1) + ':' for i, w in enumerate(widths)) + '|'
    return '\n'.join([line(head), rule, *map(line, rows)])


def processor():
    try:
        for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.split(':', 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def write(comparison, rows):
    day = datetime.date.today().isoformat()
    results = FOLDER / 'results' / f'cpu-{day}.jsonl'
    results.parent.mkdir(exist_ok=True)
    results.write_text(''.join(json.dumps(line) + '\n' for line in comparison.raw))
    page = FOLDER.parent / 'docs' / 'performance.md'
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        sys.exit(f'against_torch: {page} has no lines {BEGIN} and {END} to write between')
    variants = ', '.join(comparison.variants)
    note = (f'{processor()}, {comparison.options.threads} threads, {day}: medians of {comparison.options.rounds} rounds of '
            f'the peer\'s variants {variants}; raw lines in `bench/results/{results.name}`.')
    page.write_text(f'{before}{BEGIN}\n{note}\n\n{table(rows)}\n{END}{after}')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bench', type=pathlib.Path)
    parser.add_argument('venv', type=pathlib.Path)
    parser.add_argument('--case', action='append')
    parser.add_argument('--variant', action='append', choices=list(dict.fromkeys([*ON_CPU, *ON_CUDA])),
                        help='of the peer [all]')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--precision', choices=['float32', 'bfloat16'], default='float32')
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--rounds', type=int, default=3, help='rounds of alternation')
    parser.add_argument('--calls', type=int, default=7, help='calls that a process times')
    parser.add_argument('--raw', type=pathlib.Path, help='file for the raw lines')
    parser.add_argument('--write', action='store_true', help='into docs/performance.md and bench/results/')
    options = parser.parse_args()
    if options.write and options.device != 'cpu':
        parser.error('--write is for the CPU')
    for name in options.variant or []:
        if name not in (ON_CPU if options.device == 'cpu' else ON_CUDA):
            parser.error(f'the {options.device} has no variant {name!r}')
    comparison, rows = Comparison(options), []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        for case in chosen_cases(options):
            print(f'timing {case}', file=sys.stderr, flush=True)
            done = comparison.case(case)
            if done:
                rows.append(done)
                print(f'{case}: {done[4]} ms a step, {done[2]} the peer\'s ({done[3]})', file=sys.stderr, flush=True)
    finally:
        if rows:
            print(table(rows), flush=True)
            if options.device == 'cuda':
                print(table(every_side(comparison.raw), SIDES, (0, 1)), flush=True)
    if not rows:
        sys.exit('against_torch: nothing could be timed')
    if options.write:
        write(comparison, rows)


def chosen_cases(options):
    named = [word for case in options.case or [] for word in ('--case', case)]
    done = subprocess.run([options.bench, '--list', '--device', options.device, *named],
                          stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)  # bench has said why
    return done.stdout.split()


if __name__ == '__main__':
    main()
