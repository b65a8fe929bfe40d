//! Expands a scenario into plans: variables to values, ranges to addresses, fills to generations.

use std::mem;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tdxlab_plan as plan;
use tdxlab_plan::limits::MAX_OPERATIONS;
use tdxlab_plan::{Action, Expect, ExpectTd, Needs, Plan, needs};

use super::error::Problem;
use super::model::{self, File, Step};
use super::operation::Operations;
use super::read::{self, Reader};
use super::source::Scenario;
use super::variant::{self, Variant};
use super::yaml::Node;
use super::{guest, header};

/// Most operations of all plans of a scenario.
const MAX_TOTAL: usize = 200_000;
/// Operations for which values are tried that are not drawn.
const MAX_TRIED: usize = 20_000;
/// Seed where neither the file nor the caller has one.
pub(super) const DEFAULT_SEED: u64 = 1;

/// All plans of `scenario`, or all that is wrong with it.
pub(super) fn plans(scenario: &Scenario, seed: Option<u64>) -> Result<Vec<Plan>, Vec<Problem>> {
    all(scenario, seed, 0)
}

/// Finds what is wrong with `scenario`, whatever is drawn.
pub(super) fn check(scenario: &Scenario) -> Result<(), Vec<Problem>> {
    all(scenario, None, MAX_TRIED).map(|_| ())
}

/// All plans. Values that are not drawn are tried, too, for about so many operations as `tried` says.
fn all(scenario: &Scenario, seed: Option<u64>, tried: usize) -> Result<Vec<Plan>, Vec<Problem>> {
    let (file, root) = (&scenario.file, &scenario.root);
    let mut reader = Reader::new(&scenario.text);
    header::check(&mut reader, scenario.name(), &file.about, root);
    let variables = file.variables();
    variant::check_names(&mut reader, variables, root);
    let mut plans = Vec::new();
    let (mut total, mut left) = (0, tried);
    for variant in variant::variants(&mut reader, variables, root) {
        let mut expander = Expander::new(&mut reader, file, root, variant.clone());
        let plan = expander.plan(scenario.name(), seed);
        total += expander.operations;
        plans.extend(plan.map(|made| made.plan));
        if total > MAX_TOTAL {
            let span = root.place_of("matrix");
            let message = format!("all plans together have more than {MAX_TOTAL} operations");
            let help = "sweep less, or split the scenario".to_owned();
            reader.push(read::at(&span, message, "too many", help));
            break;
        }
        for pick in reader.picks.all() {
            if left == 0 {
                break;
            }
            reader.attempt(Some(pick));
            let mut expander = Expander::new(&mut reader, file, root, variant.clone());
            expander.plan(scenario.name(), seed);
            left = left.saturating_sub(1 + expander.operations);
        }
        reader.attempt(None);
        if reader.goes_on(root).is_none() {
            break;
        }
    }
    if reader.is_clean() {
        variant::check_used(&mut reader, variables, root);
    }
    if reader.is_clean() {
        Ok(plans)
    } else {
        Err(reader.into_problems())
    }
}

/// Where the steps of a plan of `scenario` stand: the first byte of each. Lines do not say it, since
/// several steps can be on one.
pub(super) fn places(scenario: &Scenario, plan: &Plan) -> Vec<usize> {
    let (file, root) = (&scenario.file, &scenario.root);
    let mut reader = Reader::new(&scenario.text);
    let variants = variant::variants(&mut reader, file.variables(), root);
    let made = variants
        .into_iter()
        .find(|variant| variant.plan_name(scenario.name()) == plan.name)
        .and_then(|variant| {
            let mut expander = Expander::new(&mut reader, file, root, variant);
            expander.plan(scenario.name(), Some(plan.seed))
        });
    made.map(|made| made.places).unwrap_or_default()
}

/// A plan, and where each of its steps stands in the file.
struct Made {
    plan: Plan,
    places: Vec<usize>,
}

/// Expands one plan.
struct Expander<'r, 'a> {
    reader: &'r mut Reader<'a>,
    file: &'r File,
    root: &'r Node,
    variant: Variant,
    steps: Vec<plan::Step>,
    /// Where they stand.
    places: Vec<usize>,
    /// How many there were so far, wrong ones too.
    operations: usize,
    /// Line of the step that kills the TD.
    dead: Option<u32>,
}

impl<'r, 'a> Expander<'r, 'a> {
    fn new(
        reader: &'r mut Reader<'a>,
        file: &'r File,
        root: &'r Node,
        variant: Variant,
    ) -> Expander<'r, 'a> {
        Expander {
            reader,
            file,
            root,
            variant,
            steps: Vec::new(),
            places: Vec::new(),
            operations: 0,
            dead: None,
        }
    }

    /// The plan, or `None` after reporting why not.
    fn plan(&mut self, name: &str, seed: Option<u64>) -> Option<Made> {
        self.reader.variant.clone_from(&self.variant.label);
        self.reader.vars.clear();
        for (name, value) in &self.variant.values {
            self.reader.vars.set(name, value.clone());
        }
        let name = self.variant.plan_name(name);
        let written =
            self.reader
                .get_or(self.file.seed.as_ref(), self.root.key("seed"), DEFAULT_SEED);
        let seed = seed.or(written)?;
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ fingerprint(&name));
        let draws = self.root.key("draw");
        variant::draw(self.reader, &self.file.draw, draws, &mut random);
        let needs = self.needs();
        let guest = guest::guest(self.reader, &self.file.guest, self.root.key("guest"))?;
        let mut operations = Operations::new(&guest);
        self.steps(
            &self.file.steps.0,
            self.root.key("steps"),
            &mut operations,
            &mut random,
        )?;
        let plan = Plan {
            version: plan::VERSION,
            name,
            about: self.file.about.trim().to_owned(),
            seed,
            needs: needs?,
            guest,
            steps: mem::take(&mut self.steps),
        };
        let places = mem::take(&mut self.places);
        Some(Made { plan, places })
    }

    fn needs(&mut self) -> Option<Needs> {
        let (needs, node) = (&self.file.needs, self.root.key("needs"));
        let hosts = needs.hosts.iter().flat_map(|list| &list.0).enumerate();
        let hosts: Vec<_> = hosts
            .map(|(index, host)| self.reader.get(host, node.key("hosts").item(index)))
            .collect();
        let mut level = |scalar: &Option<_>, key| {
            let scalar: Option<&super::scalar::Scalar<tdxlab_plan::addr::PageLevel>> =
                scalar.as_ref();
            self.reader.get_if(scalar, node.key(key))
        };
        let private_leaf = level(&needs.private_leaf, "private_leaf");
        let private_leaf_at_most = level(&needs.private_leaf_at_most, "private_leaf_at_most");
        let hole_alignment = level(&needs.hole_alignment, "hole_alignment");
        let hole_alignment_at_least =
            level(&needs.hole_alignment_at_least, "hole_alignment_at_least");
        let converts = self
            .reader
            .get_if(needs.converts.as_ref(), node.key("converts"));
        let module = self
            .reader
            .get_if(needs.module.as_ref(), node.key("module"));
        let needs = Needs {
            private_leaf: private_leaf?,
            private_leaf_at_most: private_leaf_at_most?,
            hole_alignment: hole_alignment?,
            hole_alignment_at_least: hole_alignment_at_least?,
            converts: converts?,
            module: module?,
            hosts: hosts.into_iter().collect::<Option<_>>()?,
        };
        if let Some(why) = needs::impossible(&needs) {
            let span = self.root.place_of("needs");
            let message = "no design meets these needs".to_owned();
            self.reader
                .push(read::at(&span, message, "impossible together", why));
        }
        Some(needs)
    }

    /// Adds `steps`, which are at `list`. `None` if there are too many to continue.
    fn steps(
        &mut self,
        steps: &[Step],
        list: &Node,
        operations: &mut Operations,
        random: &mut ChaCha8Rng,
    ) -> Option<()> {
        for (index, step) in steps.iter().enumerate() {
            let node = list.item(index);
            self.reader.goes_on(node)?;
            if let Some(line) = self.dead {
                let message = "nothing can follow the death of the TD".to_owned();
                let help = format!("the step on line {line} kills it; end the scenario there");
                self.reader
                    .push(read::at(&node.span, message, "comes after it", help));
                return None;
            }
            match &step.repeat {
                Some(repeat) => {
                    if let Some(entry) = node.entry("expect") {
                        self.reader.push(read::at(
                            &entry.key_span,
                            "`expect` cannot stand beside `repeat`".to_owned(),
                            "of which round?",
                            "put it beside the steps inside".to_owned(),
                        ));
                    }
                    self.repeat(repeat, node.key("repeat"), operations, random)?;
                }
                None => self.step(step, node, operations)?,
            }
        }
        Some(())
    }

    fn repeat(
        &mut self,
        repeat: &model::Repeat,
        node: &Node,
        operations: &mut Operations,
        random: &mut ChaCha8Rng,
    ) -> Option<()> {
        let Some(times) = self.reader.get(&repeat.times, node.key("times")) else {
            return Some(());
        };
        if times == 0 || times > MAX_OPERATIONS as u64 {
            let message = format!("steps cannot be done {times} times");
            let help = format!("from 1 to {MAX_OPERATIONS}");
            self.reader
                .wrong(node.key("times"), message, "out of bounds", help);
            return None;
        }
        let names = repeat.counter.iter().chain(repeat.draw.keys());
        let Some(names) = variant::begin_scope(self.reader, names, node) else {
            return Some(());
        };
        for round in 0..times {
            if let Some(counter) = &repeat.counter {
                self.reader.vars.set(counter, round.to_string());
            }
            variant::draw(self.reader, &repeat.draw, node.key("draw"), random);
            let before = self.steps.len();
            self.steps(&repeat.steps.0, node.key("steps"), operations, random)?;
            if self.steps.len() == before {
                // Only an erroneous step adds none; report it once.
                break;
            }
        }
        variant::end_scope(self.reader, &names);
        Some(())
    }

    fn step(&mut self, step: &Step, node: &Node, operations: &mut Operations) -> Option<()> {
        let expect = match &step.expect {
            Some(expect) => self.expect(expect, node.key("expect")),
            None => Some(Expect::default()),
        };
        let action = match (&step.parallel, step.operation()) {
            (Some(branches), _) => {
                let node = node.key("parallel");
                operations
                    .parallel(self.reader, &branches.0, node)
                    .map(Action::Parallel)
            }
            (None, Some((key, operation))) => {
                let op = operations.one(self.reader, &operation, node.key(key), &expect);
                op.map(Action::One)
            }
            (None, None) => None,
        };
        if let (Some(expect), Some(action)) = (&expect, &action) {
            self.check_fit(expect, action, node);
        }
        self.operations += action.as_ref().map_or(1, |action| action.ops().count());
        if self.operations > MAX_OPERATIONS {
            let message = format!("a plan cannot have more than {MAX_OPERATIONS} operations");
            let help = "repeat less often, or split the scenario".to_owned();
            self.reader
                .push(read::at(&node.span, message, "one too many", help));
            return None;
        }
        let Some((action, expect)) = action.zip(expect) else {
            // Its errors are reported; the next step may have others.
            return Some(());
        };
        if expect.td == Some(ExpectTd::Killed) {
            self.dead = Some(node.line);
        }
        self.places.push(node.span.start);
        self.steps.push(plan::Step {
            line: node.line,
            action,
            expect,
        });
        Some(())
    }

    fn expect(&mut self, expect: &model::Expect, node: &Node) -> Option<Expect> {
        let reader = &mut *self.reader;
        let splits = reader.get_if(expect.splits.as_ref(), node.key("splits"));
        let pages_4k = reader.get_if(expect.pages_4k.as_ref(), node.key("pages_4k"));
        let pages_2m = reader.get_if(expect.pages_2m.as_ref(), node.key("pages_2m"));
        let pages_1g = reader.get_if(expect.pages_1g.as_ref(), node.key("pages_1g"));
        let exits = reader.get_if(expect.accept_exits.as_ref(), node.key("accept_exits"));
        let status = reader.get_if(expect.status.as_ref(), node.key("status"));
        let errno = reader.get_if(expect.errno.as_ref(), node.key("errno"));
        let map_gpa = reader.get_if(expect.map_gpa.as_ref(), node.key("map_gpa"));
        let td = reader.get_if(expect.td.as_ref(), node.key("td"));
        let entries = reader.get_if(expect.entries_at_most.as_ref(), node.key("entries_at_most"));
        Some(Expect {
            splits: splits?,
            pages_4k: pages_4k?,
            pages_2m: pages_2m?,
            pages_1g: pages_1g?,
            accept_exits: exits?,
            status: status?,
            errno: errno?,
            map_gpa: map_gpa?,
            td: td?,
            entries_at_most: entries?,
        })
    }

    /// Reports expectations that do not fit the step's operation.
    fn check_fit(&mut self, expect: &Expect, action: &Action, node: &Node) {
        for (key, what) in expect.misfits(action) {
            if let Some(entry) = node.key("expect").entry(key) {
                let message = format!("`{key}` is about {what}, and this step makes none");
                let help = "remove it, or put it beside the step it belongs to".to_owned();
                self.reader
                    .push(read::at(&entry.key_span, message, "does not apply", help));
            }
        }
    }
}

/// Hash of `name`, the same in every version (FNV-1a), so that the draws of one plan do not depend
/// on which other plans are made.
pub(super) fn fingerprint(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
