#!/usr/bin/env python3
"""Sums up a CSV of Nsight Compute (--page raw): the kernels that take the most time, with what they use of the device.

usage: kernel_figures.py FILE.csv [ROWS]
Percentages are of the device's peak, weighted by time: bytes of memory, the busiest unit of the multiprocessors, the tensor
cores' instructions, and warps in flight of those that fit.
"""
import collections
import csv
import re
import sys

# Which columns, of which the largest counts: their names differ between architectures.
SHARES = {
    'memory': r'(gpu__)?dram_{1,2}throughput\.avg\.pct_of_peak_sustained_elapsed',
    'units': r'sm__throughput\.avg\.pct_of_peak_sustained_elapsed',
    'tensor': r'sm__(inst_executed_)?pipe_tensor.*pct_of_peak_sustained_active',
    'warps': r'sm__warps_active\.avg\.pct_of_peak_sustained_active',
}
MICROSECONDS = {'ns': 1e-3, 'us': 1, 'usecond': 1, 'nsecond': 1e-3, 'ms': 1e3, 'msecond': 1e3, 's': 1e6, 'second': 1e6}


def number(text):
    try:
        return float(text.replace(',', ''))
    except ValueError:
        return 0.0


def launches(path):
    """One dictionary for each launch. What the program itself has printed stands before and after the table."""
    lines = [line for line in open(path, encoding='utf-8', errors='replace') if line.startswith('"')]
    if len(lines) < 3:
        sys.exit(f'kernel_figures: {path} holds no launches')
    header, units, *rows = csv.reader(lines)
    scale = MICROSECONDS.get(dict(zip(header, units)).get('gpu__time_duration.sum', 'us'), 1)
    for row in rows:
        launch = dict(zip(header, row))
        launch['shares'] = [max((number(value) for name, value in launch.items() if isinstance(value, str) and
                                 re.fullmatch(pattern, name)), default=0) for pattern in SHARES.values()]
        launch['microseconds'] = number(launch.get('gpu__time_duration.sum', '')) * scale
        yield launch


def short(name):
    name = re.sub(r'dattn::cuda::|\(anonymous namespace\)::|<unnamed>::|detail::|void ', '', name)
    name = re.sub(r'\([\w: ]+\)(?=-?\d)', '', name)  # the type of a template's number: (int)8, (BiasForm)2
    return re.sub(r'\(.*\)$', '', name)[:70]


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    most = int(sys.argv[2]) if len(sys.argv) > 2 else 15
    groups = collections.defaultdict(list)
    for launch in launches(sys.argv[1]):
        groups[short(launch['Kernel Name'])].append(launch)
    time = {name: sum(l['microseconds'] for l in group) for name, group in groups.items()}
    total = sum(time.values()) or 1
    print(f'{"time":>6} {"calls":>6} {"us each":>9} ' + ' '.join(f'{share:>7}' for share in SHARES) + f' {"regs":>5}  kernel')
    for name in sorted(time, key=time.get, reverse=True)[:most]:
        group = groups[name]
        weighted = [sum(l['shares'][i] * l['microseconds'] for l in group) / (time[name] or 1) for i in range(len(SHARES))]
        registers = max(number(l.get('launch__registers_per_thread', '')) for l in group)
        print(f'{100 * time[name] / total:5.1f}% {len(group):6} {time[name] / len(group):9.2f} ' +
              ' '.join(f'{w:6.1f}%' for w in weighted) + f' {registers:5.0f}  {name}')


if __name__ == '__main__':
    main()
