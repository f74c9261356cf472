"""The local disk: layout, journal, index, packs, and the transaction that ties them."""
