//! What larder saved the API, and what it must save.
//!
//! Owns: the figures, their bounds, the table. Never touches: how they came about.

/// What was found, and what it must be.
pub(crate) struct Figures {
    /// How often each app asks.
    pub(crate) asked: usize,
    pub(crate) apps: Vec<Saved>,
    pub(crate) presented: Presented,
}

/// The calls that an app costs the API.
pub(crate) struct Saved {
    pub(crate) app: &'static str,
    pub(crate) before: u64,
    pub(crate) after: u64,
}

/// Whether a host is seen through larder with the certificate that it presents itself.
pub(crate) struct Presented {
    pub(crate) named_is_own: bool,
    pub(crate) other_is_own: bool,
}

impl Saved {
    /// The part of the calls that is no longer made.
    fn part(&self) -> f64 {
        let [before, after] = [self.before, self.after]
            .map(|calls| f64::from(u32::try_from(calls).unwrap_or(u32::MAX)));
        if before > 0.0 { 1.0 - after / before } else { 0.0 }
    }
}

impl Figures {
    /// What was not reached.
    pub(crate) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        for saved in &self.apps {
            if u64::try_from(self.asked).ok() != Some(saved.before) {
                missed.push(format!("{}: {} calls without larder", saved.app, self.asked));
            }
            if saved.part() < 0.9 {
                missed.push(format!("{}: 90 % fewer calls", saved.app));
            }
        }
        if self.presented.named_is_own {
            missed.push("the API that a route names is intercepted".to_owned());
        }
        if !self.presented.other_is_own {
            missed.push("a host that nobody named shows its own certificate".to_owned());
        }
        missed
    }

    /// The table.
    pub(crate) fn print(&self) {
        println!(
            "{:<10}{:>22}{:>22}{:>10}",
            "app", "calls without larder", "through larder", "fewer"
        );
        for saved in &self.apps {
            let Saved { app, before, after } = saved;
            println!("{app:<10}{before:>22}{after:>22}{:>9.1}%", saved.part() * 100.0);
        }
        let whose = |own| if own { "the origin's own" } else { "made by larder" };
        println!(
            "certificate of the API that a route names: {}",
            whose(self.presented.named_is_own)
        );
        println!(
            "certificate of a host that nobody named:   {}",
            whose(self.presented.other_is_own)
        );
        println!();
    }

    /// The same for machines, as one line.
    pub(crate) fn json(&self, reached: bool) -> serde_json::Value {
        let apps: Vec<_> = self
            .apps
            .iter()
            .map(|saved| {
                serde_json::json!({
                    "app": saved.app,
                    "calls_before": saved.before,
                    "calls_after": saved.after,
                    "saved": saved.part(),
                })
            })
            .collect();
        serde_json::json!({
            "example": "https_exec",
            "apps": apps,
            "named_host_intercepted": !self.presented.named_is_own,
            "other_host_untouched": self.presented.other_is_own,
            "reached": reached,
        })
    }
}
