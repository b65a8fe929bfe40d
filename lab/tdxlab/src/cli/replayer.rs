//! Hooks of a replay: fixes the order of races, stops between steps, holds a guest.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tdxlab_host::Session;
use tdxlab_journal::interleaving::Interleaving;
use tdxlab_journal::replay::Replay;
use tdxlab_journal::verdict::Judgement;
use tdxlab_journal::{PlanId, Reading, Verdict};
use tdxlab_plan::{Plan, op_words, text as words};
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_report::terminal::{contrast, paint};
use tdxlab_run::{Hooks, StepContext};

use super::output;
use super::prompt::{self, Answer};

/// Most extents of memory shown before a step.
const EXTENTS: usize = 12;

/// Most findings shown of a step.
const FINDINGS: usize = 6;

const PROMPT: &str = "[Enter: run step, c: continue, q: quit, ?: help]";

const HELP: &str = "  \
  Enter  run this step, show its verdict, stop before the next one
  c      run on; stop again after a step that does not pass
  q      end the replay and the guest
  ?      show this help
\"predicted\" is what the design must do; \"measured\" is what the host reports.
After a step that failed, real memory may differ from what is predicted.";

/// Keeps races in their recorded order, and talks with the person at the terminal.
pub(super) struct Replayer<'a> {
    replays: &'a [Replay],
    times: usize,
    steps: Mutex<Steps>,
    hold: bool,
    interrupt: &'a Interrupt,
}

/// Steps to stop at.
struct Steps {
    /// `--step` was given.
    wanted: bool,
    /// Stop before the next step.
    stop: bool,
    /// The first step of the current plan that did not pass, from 1.
    failed: Option<usize>,
}

impl<'a> Replayer<'a> {
    /// Each of `replays` is run `times` times; `step` stops before each step.
    pub(super) fn new(
        replays: &'a [Replay],
        times: usize,
        step: bool,
        hold: bool,
        interrupt: &'a Interrupt,
    ) -> Replayer<'a> {
        Replayer {
            replays,
            times,
            steps: Mutex::new(Steps {
                wanted: step,
                stop: step,
                failed: None,
            }),
            hold,
            interrupt,
        }
    }

    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks what to do until the answer is one that is known.
    fn ask(&self, steps: &mut Steps) {
        loop {
            output::note(PROMPT);
            match prompt::line(self.interrupt) {
                Answer::Line(line) => match line.as_str() {
                    "" => return,
                    "c" => {
                        steps.stop = false;
                        return;
                    }
                    "q" => return self.interrupt.raise(),
                    "?" | "h" | "help" => output::note(HELP),
                    other => output::note(format!("unknown command `{other}`; ? shows help")),
                },
                Answer::Interrupted => return,
                Answer::Closed => {
                    output::note("end of input: replay stopped");
                    return self.interrupt.raise();
                }
            }
        }
    }
}

impl Hooks for Replayer<'_> {
    fn order(&self, plan: PlanId, step: usize) -> Option<&Interleaving> {
        let replay = self.replays.get(plan.0 as usize / self.times)?;
        replay.orders.get(&u32::try_from(step).ok()?)
    }

    fn before_step(&self, context: &StepContext<'_>) {
        let mut steps = self.steps();
        if context.step == 0 {
            steps.failed = None;
        }
        if !steps.stop {
            return;
        }
        for line in describe(context, steps.failed) {
            output::say(line);
        }
        self.ask(&mut steps);
    }

    fn judged(&self, plan: &Plan, step: usize, judgement: &Judgement) {
        let mut steps = self.steps();
        if !steps.wanted {
            return;
        }
        let bad = judgement.verdict != Verdict::Pass;
        if bad {
            steps.failed.get_or_insert(step + 1);
            steps.stop = true;
        }
        if !bad && !steps.stop {
            return;
        }
        let last = step + 1 == plan.steps.len();
        output::say(format!(
            "{} step {}{}",
            paint(judgement.verdict),
            step + 1,
            match (bad, last) {
                (true, false) => "; the steps after it start from what it left",
                _ => "",
            }
        ));
        for finding in judgement.findings.iter().take(FINDINGS) {
            let place = match finding.at {
                Some(range) => format!("{range} "),
                None => String::new(),
            };
            output::say(format!(
                "  {:<13} {place}{}",
                finding.witness.to_string(),
                contrast(&finding.found, &finding.expected)
            ));
        }
        let more = judgement.findings.len().saturating_sub(FINDINGS);
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        match more.saturating_add(judgement.findings_omitted) {
            0 => {}
            more => output::say(format!("  ... and {more} more")),
        }
        output::say("");
    }

    fn failed(&self, plan: &Plan, folder: &Path, session: &mut dyn Session) {
        if !self.hold {
            return;
        }
        output::say(format!("{} failed; its guest is held", plan.name));
        let ways = session.attach();
        if ways.is_empty() {
            output::say("  no QEMU to attach to on this host; see the files");
        }
        for (what, how) in ways {
            output::say(format!("  {what:<8} {how}"));
        }
        output::say(format!("  {:<8} {}", "files", folder.display()));
        output::note("[Enter or a signal: end the guest]");
        if prompt::line(self.interrupt) == Answer::Closed {
            prompt::signal(self.interrupt);
        }
    }
}

/// A step, its prediction, and the state before it.
fn describe(context: &StepContext<'_>, failed: Option<usize>) -> Vec<String> {
    let guest = &context.plan.guest;
    let steps = &context.plan.steps;
    let action = &steps[context.step].action;
    let mut lines = vec![format!(
        "step {} of {}: {}",
        context.step + 1,
        steps.len(),
        op_words::action(action, guest)
    )];
    let mut tell = |title: &str, texts: Vec<String>| {
        for (index, text) in texts.into_iter().enumerate() {
            let title = if index == 0 { title } else { "" };
            lines.push(format!("  {title:<20} {text}"));
        }
    };
    tell("memory (predicted)", memory(context));
    if let Some(failed) = failed {
        let why = format!("step {failed} failed: real memory may differ from this");
        tell("", vec![why]);
    }
    tell("counters (measured)", vec![counters(context)]);
    tell("must show", words::expectation(context.expected));
    lines
}

fn memory(context: &StepContext<'_>) -> Vec<String> {
    let extents = &context.map.extents;
    let mut texts: Vec<String> = extents
        .iter()
        .take(EXTENTS)
        .map(|(range, state)| {
            let place = words::place(*range, &context.plan.guest);
            format!("{place} {}", words::state(*state))
        })
        .collect();
    if extents.len() > EXTENTS || context.map.cut {
        texts.push("and more".to_owned());
    }
    if texts.is_empty() {
        texts.push("empty".to_owned());
    }
    texts
}

fn counters(context: &StepContext<'_>) -> String {
    let sample = context.sample;
    let pages = [&sample.debugfs, &sample.query_stats]
        .into_iter()
        .find_map(Reading::value);
    let pages = match pages {
        Some(pages) => format!("pages_4k {}, pages_2m {}", pages.pages_4k, pages.pages_2m),
        None => "page counters could not be read".to_owned(),
    };
    match sample.populated.value() {
        Some(populated) => format!("{pages}, populated {populated}"),
        None => format!("{pages}, populated unknown"),
    }
}
