"""Where artifacts live: stores by URL scheme, archives, transfer."""
