//! Progress of a run: bars on a terminal, plain lines elsewhere, none with `--quiet`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use console::style;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tdxlab_fuzz::{Budget, FuzzProgress};
use tdxlab_journal::Verdict;
use tdxlab_plan::text::Micros;
use tdxlab_report::terminal::paint;
use tdxlab_run::{NoProgress, Outcome, Progress};

use super::output;

/// The watcher that fits the terminal.
pub(super) fn watcher(plans: usize, jobs: usize, quiet: bool) -> Box<dyn Progress> {
    if quiet {
        Box::new(NoProgress)
    } else if can_draw() {
        Box::new(Bars::new(plans, jobs))
    } else {
        Box::new(Lines {
            plans,
            ended: AtomicUsize::new(0),
        })
    }
}

/// Whether stderr is a terminal on which a line can be drawn over.
fn can_draw() -> bool {
    console::Term::stderr().is_term() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A line on the terminal with the progress of a hunt, for the lifetime of this value.
pub(super) struct Ticker(ProgressBar);

impl Ticker {
    /// Draws only if stderr is a terminal.
    pub(super) fn start(progress: &Arc<FuzzProgress>, budget: Budget) -> Ticker {
        let bar = match can_draw() {
            true => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
            false => ProgressBar::hidden(),
        };
        let until = match budget {
            Budget::Time(time) => format!("of {}s", time.as_secs()),
            Budget::Plans(plans) => format!("to run {plans}"),
        };
        let progress = Arc::clone(progress);
        let style = ProgressStyle::with_template("{spinner} {elapsed} {far}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .with_key(
                "far",
                move |_: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
                    let plans = progress.plans.load(Ordering::Relaxed);
                    let steps = progress.steps.load(Ordering::Relaxed);
                    let phase = match progress.shrinking.load(Ordering::Relaxed) {
                        true => "; found a failure, shrinking it",
                        false => "",
                    };
                    let _ = write!(out, "{until}; {plans} scenarios, {steps} steps{phase}");
                },
            );
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Ticker(bar)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// One line per finished scenario.
struct Lines {
    plans: usize,
    ended: AtomicUsize,
}

impl Progress for Lines {
    fn plan_started(&self, _: usize, _: &str, _: usize) {}
    fn step_started(&self, _: usize, _: usize) {}

    fn plan_ended(&self, _: usize, name: &str, outcome: &Outcome) {
        let number = self.ended.fetch_add(1, Ordering::Relaxed) + 1;
        output::note(format!(
            "[{number}/{}] {}",
            self.plans,
            ended_line(name, outcome)
        ));
    }
}

/// A bar for the run, and one for the current plan of every worker.
struct Bars {
    all: MultiProgress,
    run: ProgressBar,
    workers: Vec<ProgressBar>,
}

impl Bars {
    fn new(plans: usize, jobs: usize) -> Bars {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let bar = |template: &str| {
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
        };
        let run = all.add(ProgressBar::new(plans as u64));
        run.set_style(bar("{bar:32} {pos}/{len} scenarios, {elapsed}"));
        let workers = (0..jobs)
            .map(|_| {
                let worker = all.add(ProgressBar::new(0));
                worker.set_style(bar("  {spinner} step {pos}/{len} {wide_msg}"));
                worker
            })
            .collect();
        run.tick();
        Bars { all, run, workers }
    }
}

impl Progress for Bars {
    fn plan_started(&self, worker: usize, name: &str, steps: usize) {
        if let Some(bar) = self.workers.get(worker) {
            bar.set_length(steps as u64);
            bar.set_position(0);
            bar.set_message(name.to_owned());
        }
    }

    fn step_started(&self, worker: usize, step: usize) {
        if let Some(bar) = self.workers.get(worker) {
            bar.set_position(step as u64 + 1);
        }
    }

    fn plan_ended(&self, _: usize, name: &str, outcome: &Outcome) {
        if outcome.interrupted {
            return;
        }
        if matches!(outcome.verdict, Verdict::Fail | Verdict::Error) {
            let _ = self.all.println(ended_line(name, outcome));
        }
        self.run.inc(1);
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.finish_and_clear();
        }
        self.run.finish_and_clear();
    }
}

fn ended_line(name: &str, outcome: &Outcome) -> String {
    let took = Micros(u64::try_from(outcome.took.as_micros()).unwrap_or(u64::MAX));
    if outcome.interrupted {
        return format!("{} {name}", style("interrupted").yellow());
    }
    let why = match &outcome.reason {
        Some(reason) => format!(": {}", reason.lines().next().unwrap_or_default()),
        None => String::new(),
    };
    match outcome.verdict {
        Verdict::Skip => format!("{} {name}{why}", paint(outcome.verdict)),
        _ => format!(
            "{} {name} {}{why}",
            paint(outcome.verdict),
            style(format!("({took})")).dim()
        ),
    }
}
