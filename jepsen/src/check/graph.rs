//! Dependencies between transactions, and cycles among them: what `append` and `wr` have in common.
//!
//! Edges: `ww` (overwrote), `wr` (read what it wrote), `rw` (read what it overwrote), `rt` (ended before it began). A cycle
//! contradicts strict serializability; its name tells which weaker promise is broken as well.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::finding::{Anomaly, Finding, Link};

/// Nodes of a component that a shortest cycle is sought from.
const STARTS_MAX: usize = 40;
/// Components reported.
const CYCLES_MAX: usize = 10;

/// Write after write.
pub const WW: u8 = 1;
/// Read after write.
pub const WR: u8 = 2;
/// Write after read.
pub const RW: u8 = 4;
/// Real time.
pub const RT: u8 = 8;

/// A transaction in time.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// The operation.
    pub id: u64,
    /// When it began.
    pub start: u64,
    /// When it was answered; `None` = it was not.
    pub end: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    to: u32,
    kind: u8,
    /// Which key, as the caller numbers them.
    key: u32,
}

/// Transactions and their dependencies.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    edges: Vec<Vec<Edge>>,
}

impl Graph {
    /// A graph without edges but those of real time.
    pub fn new(nodes: Vec<Node>) -> Self {
        let mut graph = Self { edges: vec![Vec::new(); nodes.len()], nodes };
        graph.add_real_time();
        graph
    }

    /// Adds a dependency on a key; one of a transaction on itself says nothing.
    pub fn add(&mut self, from: usize, to: usize, kind: u8, key: usize) {
        if from != to {
            self.edges[from].push(Edge { to: to as u32, kind, key: key as u32 });
        }
    }

    /// Real time with as few edges as possible: from each transaction that ended to the next ones to begin, as long as
    /// no one that ended later says the same.
    fn add_real_time(&mut self) {
        let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(self.nodes.len() * 2);
        for (at, node) in self.nodes.iter().enumerate() {
            // At one moment beginnings come first: equal times are concurrent.
            moments.push((node.start, false, at));
            moments.extend(node.end.map(|end| (end, true, at)));
        }
        moments.sort_unstable();
        let mut frontier: Vec<usize> = Vec::new();
        for (_, ends, at) in moments {
            if ends {
                let start = self.nodes[at].start;
                frontier.retain(|other| self.nodes[*other].end.is_some_and(|end| end >= start));
                frontier.push(at);
            } else {
                for &from in &frontier {
                    self.edges[from].push(Edge { to: at as u32, kind: RT, key: 0 });
                }
            }
        }
    }

    /// Reports a cycle of each component, under the name of the weakest promise that it breaks. `key` names a key.
    pub fn check(&self, finding: &mut Finding, key: impl Fn(u32) -> String) {
        let all: Vec<u32> = (0..self.nodes.len() as u32).collect();
        let mut suspects: Vec<Vec<u32>> = self.components(&all, WW | WR | RW | RT);
        let mut reported = 0;
        for mask in [WW, WW | WR, WW | WR | RW, WW | RT, WW | WR | RT, WW | WR | RW | RT] {
            let mut left = Vec::new();
            for suspect in suspects {
                let found = self.components(&suspect, mask);
                if found.is_empty() {
                    left.push(suspect);
                }
                for component in found {
                    reported += 1;
                    if reported <= CYCLES_MAX {
                        finding.add(self.anomaly(&component, mask, &key));
                    }
                }
            }
            suspects = left;
        }
    }

    /// Strongly connected components of more than one node, by edges of the mask between the given nodes (Tarjan).
    fn components(&self, among: &[u32], mask: u8) -> Vec<Vec<u32>> {
        const NEW: u32 = u32::MAX;
        let place: HashMap<u32, u32> = match among.len() == self.nodes.len() {
            true => HashMap::new(),
            false => among.iter().enumerate().map(|(at, node)| (*node, at as u32)).collect(),
        };
        let local = |node: u32| if place.is_empty() { Some(node) } else { place.get(&node).copied() };
        let mut index = vec![NEW; among.len()];
        let mut low = vec![0u32; among.len()];
        let mut on_stack = vec![false; among.len()];
        let (mut stack, mut found, mut next) = (Vec::new(), Vec::new(), 0u32);
        let mut calls: Vec<(u32, usize)> = Vec::new();
        for root in 0..among.len() as u32 {
            if index[root as usize] != NEW {
                continue;
            }
            calls.push((root, 0));
            while let Some((at, step)) = calls.pop() {
                let me = at as usize;
                if index[me] == NEW {
                    (index[me], low[me], on_stack[me]) = (next, next, true);
                    next += 1;
                    stack.push(at);
                }
                let edges = &self.edges[among[me] as usize];
                let mut descend = None;
                for (step, one) in edges.iter().enumerate().skip(step) {
                    let Some(to) = local(one.to).filter(|_| one.kind & mask != 0) else { continue };
                    if index[to as usize] == NEW {
                        descend = Some((step, to));
                        break;
                    }
                    if on_stack[to as usize] {
                        low[me] = low[me].min(low[to as usize]);
                    }
                }
                if let Some((step, to)) = descend {
                    // The same edge is looked at again after the return, and takes over the lower number then.
                    calls.push((at, step));
                    calls.push((to, 0));
                    continue;
                }
                if low[me] == index[me] {
                    let from = stack.iter().rposition(|node| *node == at).expect("it was pushed");
                    let component: Vec<u32> = stack.drain(from..).collect();
                    component.iter().for_each(|node| on_stack[*node as usize] = false);
                    if component.len() > 1 {
                        found.push(component.into_iter().map(|node| among[node as usize]).collect());
                    }
                }
            }
        }
        found
    }

    /// The cycle with the fewest `rw` edges, then the shortest.
    fn anomaly(&self, component: &[u32], mask: u8, key: &impl Fn(u32) -> String) -> Anomaly {
        let cycle = component
            .iter()
            .take(STARTS_MAX)
            .filter_map(|start| self.cycle(*start, component, mask))
            .min_by_key(|(cost, _)| *cost)
            .map_or(Vec::new(), |(_, cycle)| cycle);
        let count = |kind: u8| cycle.iter().filter(|(_, edge)| edge.kind == kind).count();
        let base = match (count(RW), count(WR)) {
            (0, 0) => "G0",
            (0, _) => "G1c",
            (1, _) => "G-single",
            _ => "G2",
        };
        let name = if count(RT) > 0 { format!("{base}-realtime") } else { base.to_owned() };
        let link = |(from, edge): &(u32, Edge)| {
            let (a, b) = (self.nodes[*from as usize].id, self.nodes[edge.to as usize].id);
            let (kind, why) = match edge.kind {
                WW => ("ww", format!("{b} overwrote what {a} wrote to {}", key(edge.key))),
                WR => ("wr", format!("{b} read what {a} wrote to {}", key(edge.key))),
                RW => ("rw", format!("{a} read {} as it was before {b} wrote it", key(edge.key))),
                _ => ("rt", format!("{a} had ended before {b} began")),
            };
            Link { from: a, to: b, kind, why }
        };
        let links: Vec<Link> = cycle.iter().map(link).collect();
        let text = links.iter().map(|link| format!("{} ({})", link.why, link.kind)).collect::<Vec<_>>().join("; ");
        let operations = links.iter().map(|link| link.from).collect();
        Anomaly { name, text, operations, cycle: links, ..Anomaly::default() }
    }

    /// The cheapest way from a node back to itself.
    fn cycle(&self, start: u32, component: &[u32], mask: u8) -> Option<(u64, Vec<(u32, Edge)>)> {
        const RW_COST: u64 = 1 << 32;
        let inside: std::collections::HashSet<u32> = component.iter().copied().collect();
        let mut best: HashMap<u32, (u64, u32, Edge)> = HashMap::new();
        let mut queue = BinaryHeap::from([Reverse((0u64, start))]);
        while let Some(Reverse((cost, at))) = queue.pop() {
            if at == start && cost > 0 {
                break;
            }
            if at != start && best[&at].0 < cost {
                continue;
            }
            for edge in self.edges[at as usize].iter().filter(|edge| edge.kind & mask != 0 && inside.contains(&edge.to))
            {
                let cost = cost + if edge.kind == RW { RW_COST } else { 1 + u64::from(edge.kind == RT) };
                if best.get(&edge.to).is_none_or(|known| cost < known.0) {
                    best.insert(edge.to, (cost, at, *edge));
                    queue.push(Reverse((cost, edge.to)));
                }
            }
        }
        let cost = best.get(&start)?.0;
        let mut cycle = Vec::new();
        let mut at = start;
        loop {
            let (_, from, edge) = best[&at];
            cycle.push((from, edge));
            at = from;
            if at == start {
                break;
            }
        }
        cycle.reverse();
        Some((cost, cycle))
    }
}
