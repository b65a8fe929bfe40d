//! Images of Linux guests: what each plan needs of its own.

use std::path::Path;

use parking_lot::Mutex;
use tdxlab_linux::{ImageOptions, LinuxError, LinuxImage};
use tdxlab_plan::linux::{LinuxOp, LinuxPlan};

use crate::own_disk;
use crate::runner::LinuxCase;

/// The images of a run. Each is made once: most plans need the same.
pub struct Images {
    /// Without the options a plan sets.
    base: ImageOptions,
    made: Mutex<Vec<(ImageOptions, LinuxImage)>>,
}

impl Images {
    /// Images of this kernel, and with these modules.
    pub fn new(base: ImageOptions) -> Images {
        Images {
            base,
            made: Mutex::new(Vec::new()),
        }
    }

    /// The image of a plan, which runs as a TD or plain, where `disk` is for plans with qemu-ga that name
    /// none.
    ///
    /// # Errors
    ///
    /// As for [`LinuxImage::prepare`].
    pub fn of(
        &self,
        case: &LinuxCase,
        td: bool,
        disk: Option<&Path>,
    ) -> Result<LinuxImage, LinuxError> {
        let plan = &case.plan;
        let (disk, loader) = own_disk::of(plan, &case.scenario, disk);
        if let Some(disk) = disk.as_deref().filter(|_| loader) {
            return Ok(LinuxImage::on_disk(disk));
        }
        let options = ImageOptions {
            kexec: has(plan, |op| *op == LinuxOp::Kexec),
            td,
            plug: plan.plugged() > 0,
            reports: asks_for_reports(plan),
            first: own_disk::first(plan, disk.as_deref()),
            ..self.base.clone()
        };
        // Held while one is made, so that nobody else makes the same.
        let mut made = self.made.lock();
        if let Some((_, image)) = made.iter().find(|(known, _)| *known == options) {
            return Ok(image.clone());
        }
        let image = LinuxImage::prepare(&options)?;
        made.push((options, image.clone()));
        Ok(image)
    }
}

/// Whether a step of a plan is such an operation.
pub(crate) fn has(plan: &LinuxPlan, is: impl Fn(&LinuxOp) -> bool) -> bool {
    plan.steps.iter().any(|step| is(&step.op))
}

/// Whether a plan asks for TDREPORTs or quotes.
pub(crate) fn asks_for_reports(plan: &LinuxPlan) -> bool {
    has(plan, |op| {
        matches!(op, LinuxOp::Report { .. } | LinuxOp::Quote { .. })
    })
}
