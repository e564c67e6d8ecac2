"""Stores that tests look into."""

import json


class Memory:
    """A store that keeps rows as the disk would: as JSON."""

    def __init__(self):
        self.rows, self.maps = {}, {}

    def append(self, row):
        self.rows[row["image"]] = json.dumps(row)

    def read(self):
        return {name: json.loads(row) for name, row in self.rows.items()}

    def save_map(self, name, **arrays):
        self.maps[name] = arrays

    def load_map(self, name):
        return self.maps[name]
