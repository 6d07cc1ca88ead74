"""From fields back to crystals: particles that move, clusters, sites, species."""
