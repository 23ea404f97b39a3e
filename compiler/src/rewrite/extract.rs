//! Extraction: one node per class, so that the operations that the roots need together are cheap.
//!
//! Costs are counted once per class, however many users it has (egg's own extractor counts a shared class once per user, which
//! doubles with every residual connection). The choice is greedy: every class keeps the cheapest set of classes found for
//! it, until nothing changes. Ordered maps and fixed visiting order make it deterministic; on ties the first found stays.

use super::analysis::Graph;
use super::lang::Node;
use egg::Id;
use std::collections::{BTreeMap, BTreeSet};

/// The chosen nodes of all classes that the roots need.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Classes, operands before users, with the node chosen for each.
    pub nodes: Vec<(Id, Node)>,
    /// Cost of all together.
    pub cost: u64,
}

/// The cheapest set found for a class.
struct Best {
    /// Cost of every class in the set that costs anything, itself included.
    set: BTreeMap<Id, u64>,
    total: u64,
    node: usize,
}

/// Rounds over all classes at most; each round settles at least one more level of the graph.
const MAX_ROUNDS: usize = 200;

/// Chooses nodes for the roots among those that `allowed` admits; `None` if there is no choice without a cycle.
pub fn extract(
    graph: &Graph,
    roots: &[Id],
    cost: &dyn Fn(Id, &Node) -> u64,
    allowed: &dyn Fn(Id, &Node) -> bool,
) -> Option<Choice> {
    let classes: BTreeSet<Id> = graph.classes().map(|c| c.id).collect();
    let mut best: BTreeMap<Id, Best> = BTreeMap::new();
    for _ in 0..MAX_ROUNDS {
        let mut changed = false;
        for &class in &classes {
            for (n, node) in graph[class]
                .nodes
                .iter()
                .enumerate()
                .filter(|(_, node)| allowed(class, node))
            {
                let limit = best.get(&class).map_or(u64::MAX, |b| b.total);
                if let Some((set, total)) = candidate(graph, &best, class, node, cost(class, node), limit) {
                    best.insert(class, Best { set, total, node: n });
                    changed = true;
                }
            }
        }
        if !changed {
            break;
        }
    }
    let mut walk = Walk {
        graph,
        best: &best,
        cost,
        state: BTreeMap::new(),
        choice: Choice {
            nodes: Vec::new(),
            cost: 0,
        },
    };
    roots
        .iter()
        .all(|&root| walk.visit(graph.find(root)))
        .then_some(walk.choice)
}

/// The set of a node with the best sets of its operands, if it costs less than `limit` and does not contain the class itself.
fn candidate(
    graph: &Graph,
    best: &BTreeMap<Id, Best>,
    class: Id,
    node: &Node,
    own: u64,
    limit: u64,
) -> Option<(BTreeMap<Id, u64>, u64)> {
    let mut set: BTreeMap<Id, u64> = BTreeMap::new();
    let mut args: Vec<Id> = node.args.iter().map(|&a| graph.find(a)).collect();
    args.sort_unstable();
    args.dedup();
    for arg in args {
        let inner = best.get(&arg)?;
        if arg == class || inner.set.contains_key(&class) || inner.total >= limit {
            return None;
        }
        if set.is_empty() {
            set.clone_from(&inner.set)
        } else {
            set.extend(inner.set.iter().map(|(&k, &v)| (k, v)))
        }
    }
    if own > 0 {
        set.insert(class, own);
    }
    let total = set.values().sum();
    (total < limit).then_some((set, total))
}

/// Collects what was chosen, depth first.
struct Walk<'a> {
    graph: &'a Graph,
    best: &'a BTreeMap<Id, Best>,
    cost: &'a dyn Fn(Id, &Node) -> u64,
    /// Entered (false) or done (true).
    state: BTreeMap<Id, bool>,
    choice: Choice,
}

impl Walk<'_> {
    /// Whether the class and all it needs are without a cycle.
    fn visit(&mut self, class: Id) -> bool {
        if let Some(&done) = self.state.get(&class) {
            return done;
        }
        let Some(best) = self.best.get(&class) else {
            return false;
        };
        let node = self.graph[class].nodes[best.node].clone();
        self.state.insert(class, false);
        if !node.args.iter().all(|&a| self.visit(self.graph.find(a))) {
            return false;
        }
        self.state.insert(class, true);
        self.choice.cost += (self.cost)(class, &node);
        self.choice.nodes.push((class, node));
        true
    }
}
