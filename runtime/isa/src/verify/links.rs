//! A15: every recv takes a word that the chip at the far end of its link sent exactly one link latency before.

use super::report::Sink;
use super::walk::Walk;
use super::{EntryCx, Invariant};
use crate::run::Queue;

/// Pairs the sends and receives of all chips of an entry.
pub(super) fn check(cx: &EntryCx<'_>, sink: &mut Sink) {
    let t = cx.t;
    let mut received: Vec<(u16, u32, u32, u32)> = Vec::new();
    for chip in &cx.chips {
        for (i, run) in chip.sound() {
            let Queue::Recv(link) = run.queue else {
                continue;
            };
            let Some(&claim) = chip.claims[i as usize].operands.first() else {
                continue;
            };
            let report = |cycle: Option<u64>, what: String, sink: &mut Sink| {
                sink.report(Invariant::Links, || chip.violation(Invariant::Links, i, cycle, what));
            };
            let peer = t
                .topology
                .peer(chip.chip, link, t.c2c.local_links, cx.chips.len() as u16);
            let Some(peer) = peer else {
                report(None, format!("link {link} leads nowhere"), sink);
                continue;
            };
            let Some(from) = cx.chips.get(peer.chip as usize) else {
                continue;
            };
            let count = chip.info[i as usize].issues;
            let send = from.sound_run(claim.run);
            let Some(send) = send.filter(|s| s.queue == Queue::Send(peer.link)) else {
                let what = format!(
                    "claims r{} of c{}, which does not send on its link {}",
                    claim.run, peer.chip, peer.link
                );
                report(None, what, sink);
                continue;
            };
            received.push((peer.chip, claim.run, claim.first, count));
            let sent = from.info[claim.run as usize].issues;
            if claim.first as u64 + count as u64 > sent as u64 {
                let what = format!(
                    "claims words {}.. of r{} of c{}, which sends {sent}",
                    claim.first, claim.run, peer.chip
                );
                report(None, what, sink);
                continue;
            }
            let latency = t.c2c.latency as i64;
            let mut mine = Walk::issues(run, chip.first(i) as i64).from(0);
            let base = from.first(claim.run) as i64 + latency;
            let mut theirs = Walk::issues(send, base).from(claim.first);
            for _ in 0..count {
                let (at, arrives) = (mine.step(), theirs.step());
                if at != arrives {
                    let what = format!("receives @{at}, the word of c{} arrives @{arrives}", peer.chip);
                    report(Some(at as u64), what, sink);
                    break;
                }
            }
            let (a, b) = (chip.chain(i), from.chain(claim.run));
            if a != b {
                sink.report(Invariant::Chains, || {
                    let what = format!("receives in chain h{a} what was sent in h{b}");
                    chip.violation(Invariant::Chains, i, None, what)
                });
            }
        }
    }
    received.sort_unstable();
    for chip in &cx.chips {
        for (i, run) in chip.sound() {
            if !matches!(run.queue, Queue::Send(_)) {
                continue;
            }
            let mine = (chip.chip, i);
            let at = received.partition_point(|r| (r.0, r.1) < mine);
            let mut covered = 0u64;
            for r in received[at..].iter().take_while(|r| (r.0, r.1) == mine) {
                if r.2 as u64 <= covered {
                    covered = covered.max(r.2 as u64 + r.3 as u64);
                }
            }
            let sent = chip.info[i as usize].issues as u64;
            if covered < sent {
                sink.report(Invariant::Links, || {
                    let what = format!("word {covered} of {sent} is received by nobody");
                    chip.violation(Invariant::Links, i, None, what)
                });
            }
        }
    }
}
