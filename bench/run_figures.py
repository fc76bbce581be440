#!/usr/bin/env python3
"""Means over runs of `train`, with standard errors, from the last rows of their metrics.

usage: run_figures.py METRICS.csv...      each of one run, or with a column of seeds of several
"""
import csv
import statistics
import sys

COLUMNS = {'test accuracy, %': ('test_accuracy', 100), 'with augmentation, %': ('test_accuracy_tta', 100),
           'seconds of training': ('seconds', 1)}


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    last = {}
    for path in sys.argv[1:]:
        for row in csv.DictReader(open(path, encoding='utf-8')):
            last[path, row.get('seed')] = row
    last = list(last.values())
    if not last:
        sys.exit('run_figures: no run has come to the end of an epoch')
    print(f'{len(last)} runs of {last[0]["epoch"]} epochs, {last[0]["step"]} steps')
    for title, (column, factor) in COLUMNS.items():
        values = [factor * float(row[column]) for row in last]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float('nan')
        print(f'{title:<22} mean {statistics.mean(values):8.3f}  standard error {error:.3f}  median '
              f'{statistics.median(values):8.3f}  range {min(values):.3f} to {max(values):.3f}')


if __name__ == '__main__':
    main()
