"""Who holds which GPU, who waits and why: plain values (`model`), what is decided (`policy`), what is written down (`ledger`)."""
