//! Which chip is wired to which, over which links.
//!
//! Link numbers are relative to the rank of a chip, so that chips that play the same part in a program have identical
//! instruction text. A link is full duplex: `send` on link `l` of chip `a` arrives at the peer's `recv` on the link that
//! [`Topology::peer`] names.

/// Wiring of chips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Nodes of `node` chips, all-to-all inside over local links: local link `l` of rank `r` leads to rank
    /// `(r + l + 1) mod node`, arriving there on local link `node - 2 - l`. Global link `g` (0-based) of a chip
    /// leads to the chip of the same rank in node `+1` (g even) or `-1` (g odd), in a ring of nodes; g/2 numbers
    /// parallel links.
    Nodes {
        /// Chips per node.
        node: u8,
    },
    /// A ring: link 0 leads to the next chip, link 1 to the previous one. What is sent on link 0 arrives on link 1.
    Ring,
}

/// The far end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The chip at the far end.
    pub chip: u16,
    /// The link number under which the far end knows this link.
    pub link: u8,
}

impl Topology {
    /// The far end of `link` of `chip` in a system of `n_chips`; `None` where the link leads nowhere.
    pub fn peer(&self, chip: u16, link: u8, local_links: u8, n_chips: u16) -> Option<Peer> {
        if n_chips < 2 || chip >= n_chips {
            return None;
        }
        match *self {
            Topology::Ring => {
                let to = match link {
                    0 => (chip + 1) % n_chips,
                    1 => chip.checked_sub(1).unwrap_or(n_chips - 1),
                    _ => return None,
                };
                Some(Peer {
                    chip: to,
                    link: 1 - link,
                })
            }
            Topology::Nodes { node } => {
                let node = node as u16;
                let (n, rank) = (chip / node, chip % node);
                if link < local_links {
                    let hop = link as u16 + 1;
                    if hop >= node {
                        return None;
                    }
                    let to = n * node + (rank + hop) % node;
                    (to < n_chips).then_some(Peer {
                        chip: to,
                        link: (node - 1 - hop) as u8,
                    })
                } else {
                    let nodes = n_chips.div_ceil(node);
                    if nodes < 2 {
                        return None;
                    }
                    let g = link - local_links;
                    let other = if g.is_multiple_of(2) {
                        (n + 1) % nodes
                    } else {
                        (n + nodes - 1) % nodes
                    };
                    let to = other * node + rank;
                    (to < n_chips).then_some(Peer {
                        chip: to,
                        link: local_links + (g ^ 1),
                    })
                }
            }
        }
    }

    /// Links of `from` that lead directly to `to`, in ascending order.
    pub fn links_between(&self, from: u16, to: u16, local: u8, n_links: u8, n_chips: u16) -> Vec<u8> {
        (0..n_links)
            .filter(|&l| {
                self.peer(from, l, local, n_chips)
                    .is_some_and(|p| p.chip == to && to != from)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_leads_back() {
        for (topology, local, links) in [
            (Topology::Ring, 2, 2),
            (Topology::Nodes { node: 8 }, 7, 11),
            (Topology::Nodes { node: 4 }, 3, 5),
        ] {
            for n in [2u16, 3, 4, 8, 16, 24] {
                for chip in 0..n {
                    for link in 0..links {
                        if let Some(p) = topology.peer(chip, link, local, n) {
                            let back = topology.peer(p.chip, p.link, local, n);
                            assert_eq!(back, Some(Peer { chip, link }), "{topology:?} n={n} c{chip} l{link}");
                        }
                    }
                }
            }
        }
    }
}
