//! Results of a step so far: the sums and lists that become its [`Expectation`].

use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_plan::{
    AccessOutcome, Expectation, Interval, PageDelta, ProbeRun, ReadPlan, SplitLeaf, StatusRun,
};

use super::pages::{REGION, count, range_of};
use super::runs::Pages;
use super::status;
use super::uncertain::UncertainDelta;
use super::zero_step::Faulted;

/// Sums and lists of one step, outside of uncertain regions.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) pages_4k: i64,
    pub(super) pages_2m: i64,
    pub(super) accept_exits: i64,
    pub(super) access_exits: i64,
    pub(super) entries_at_most: Option<u64>,
    pub(super) errnos: Vec<i32>,
    /// Where a host call says that it stopped.
    pub(super) error_at: Option<Gpa>,
    pub(super) map_gpa: Option<u64>,
    /// Where a MapGPA stopped that did not go through.
    pub(super) map_gpa_stopped_at: Option<Gpa>,
    pub(super) reads: Vec<ReadPlan>,
    pub(super) died: bool,
    /// Accesses that fault, in order, while somebody asks for them.
    pub(super) faulted: Option<Vec<Faulted>>,
    /// The VMM ended it, for want of memory behind an address.
    pub(super) ended_by_vmm: bool,
    splits: i64,
    split_leaves: Vec<SplitLeaf>,
    statuses: Vec<StatusRun>,
    accepts: bool,
    /// The #VE handler may accept the page that faulted.
    pub(super) handler_accepts: bool,
    accesses: Vec<(GpaRange, AccessOutcome)>,
    accessed: bool,
    probes: Vec<ProbeRun>,
    probed: bool,
    /// The guest touched uncertain regions: its results there are unknown.
    is_uncertain: bool,
}

impl Tally {
    /// `pages` are whole regions, each mapped by a leaf until now.
    pub(super) fn split(&mut self, pages: Pages) {
        let leaves = count(&pages) / REGION as i64;
        self.splits += leaves;
        self.pages_2m -= leaves;
        self.pages_4k += count(&pages);
        let room = Expectation::MAX_SPLIT_LEAVES - self.split_leaves.len();
        let starts = pages.step_by(REGION as usize).take(room);
        self.split_leaves.extend(starts.map(|gfn| SplitLeaf {
            gpa: Gpa::from_gfn(gfn),
            level: PageLevel::Size2M,
        }));
    }

    /// `number` ACCEPTs of `level` from page `start` on returned `status`.
    pub(super) fn accepted(&mut self, start: u64, level: PageLevel, number: u64, status: u64) {
        self.accepts = true;
        let next = StatusRun {
            start: Gpa::from_gfn(start),
            level,
            count: number,
            status,
        };
        match self.statuses.last_mut() {
            Some(last)
                if (last.level, last.status) == (level, status)
                    && last.start.gfn() + last.count * level.pages_4k() == start =>
            {
                last.count += number;
            }
            _ => self.statuses.push(next),
        }
    }

    /// The accesses in `pages` ended so.
    pub(super) fn access(&mut self, pages: &Pages, outcome: AccessOutcome) {
        self.accessed = true;
        let range = range_of(pages);
        match self.accesses.last_mut() {
            Some((last, same)) if *same == outcome && last.end() == range.start() => {
                *last = GpaRange::new(last.start(), range.end()).expect("the later range follows");
            }
            _ => self.accesses.push((range, outcome)),
        }
    }

    /// Accesses fault, or may: each maps so many of these pages.
    pub(super) fn fault(&mut self, pages: &Pages, each: u64) {
        if let Some(faulted) = &mut self.faulted {
            let pages = pages.clone();
            faulted.push(Faulted { pages, each });
        }
    }

    /// Appends probe results.
    pub(super) fn probe(&mut self, next: ProbeRun) {
        self.probed = true;
        match self.probes.last_mut() {
            Some(last)
                if (last.stride, last.level, last.pending)
                    == (next.stride, next.level, next.pending)
                    && last.start.gfn() + last.count * last.stride.pages_4k()
                        == next.start.gfn() =>
            {
                last.count += next.count;
            }
            _ => self.probes.push(next),
        }
    }

    /// The guest's results in the rest of this step depend on a race.
    pub(super) fn becomes_uncertain(&mut self) {
        self.is_uncertain = true;
    }

    /// The step makes ACCEPTs (even if it ends before the first of them).
    pub(super) fn makes_accepts(&mut self) {
        self.accepts = true;
    }

    /// The expectation with these sums.
    pub(super) fn finish(self, populated: Interval, uncertain: UncertainDelta) -> Expectation {
        let seen = !self.is_uncertain && !self.died;
        let exits = |exact: i64| Interval {
            min: exact,
            max: if self.is_uncertain { NO_BOUND } else { exact },
        };
        // What the guest still reports of ACCEPTs before the last is known; how much it is, is not.
        let mut before_the_end: Vec<u64> = self.statuses.iter().map(|run| run.status).collect();
        before_the_end.sort_unstable();
        before_the_end.dedup();
        Expectation {
            td_alive: !self.died,
            splits: Interval::exactly(self.splits) + uncertain.splits,
            split_leaves: self.split_leaves,
            pages: PageDelta {
                pages_4k: Interval::exactly(self.pages_4k) + uncertain.pages_4k,
                pages_2m: Interval::exactly(self.pages_2m) + uncertain.pages_2m,
                pages_1g: Interval::exactly(0),
            },
            logged: None,
            populated,
            accept_exits: exits(self.accept_exits),
            access_exits: exits(self.access_exits),
            entries_at_most: self.entries_at_most,
            statuses: (self.accepts && seen).then_some(self.statuses),
            legal_statuses: if self.ended_by_vmm {
                before_the_end
            } else if (self.accepts || self.handler_accepts) && self.is_uncertain {
                let mut legal = status::RACING.to_vec();
                legal.push(status::OPERAND_INVALID);
                legal
            } else {
                Vec::new()
            },
            errnos: self.errnos,
            error_at: self.error_at,
            accesses: (self.accessed && seen).then_some(self.accesses),
            probes: (self.probed && seen).then_some(self.probes),
            map_gpa: self.map_gpa,
            map_gpa_stopped_at: self.map_gpa_stopped_at,
            ended_by_vmm: self.ended_by_vmm,
            reads: self.reads,
        }
    }
}

/// An upper bound that is never reached: racing vCPUs may exit again and again.
const NO_BOUND: i64 = i64::MAX / 4;
