//! The calls that larder saved the API, and the targets.
//!
//! Owns: the figures, their targets, the table. Never touches: running the apps.

/// The measured figures.
pub(crate) struct Figures {
    /// The number of requests that each app makes.
    pub(crate) requests: usize,
    pub(crate) apps: Vec<Saved>,
    pub(crate) presented: Presented,
}

/// The calls of an app that reached the API.
pub(crate) struct Saved {
    pub(crate) app: &'static str,
    pub(crate) before: u64,
    pub(crate) after: u64,
}

/// Whether a host presents its own certificate to a client of larder.
pub(crate) struct Presented {
    pub(crate) named_is_own: bool,
    pub(crate) other_is_own: bool,
}

impl Saved {
    /// The share of the calls that larder saved.
    fn part(&self) -> f64 {
        let [before, after] =
            [self.before, self.after].map(|calls| f64::from(u32::try_from(calls).unwrap_or(u32::MAX)));
        if before > 0.0 { 1.0 - after / before } else { 0.0 }
    }
}

impl Figures {
    /// The missed targets.
    pub(crate) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        for saved in &self.apps {
            if u64::try_from(self.requests).ok() != Some(saved.before) {
                missed.push(format!("{}: {} calls without larder", saved.app, self.requests));
            }
            if saved.part() < 0.9 {
                missed.push(format!("{}: 90 % fewer calls", saved.app));
            }
        }
        if self.presented.named_is_own {
            missed.push("the API that a route matches is intercepted".to_owned());
        }
        if !self.presented.other_is_own {
            missed.push("a host without a route presents its own certificate".to_owned());
        }
        missed
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        println!("{:<10}{:>22}{:>22}{:>10}", "app", "calls without larder", "with larder", "fewer");
        for saved in &self.apps {
            let Saved { app, before, after } = saved;
            println!("{app:<10}{before:>22}{after:>22}{:>9.1}%", saved.part() * 100.0);
        }
        let issuer = |is_own| if is_own { "the origin's own" } else { "issued by larder" };
        println!("certificate of the API that a route matches: {}", issuer(self.presented.named_is_own));
        println!("certificate of a host without a route:       {}", issuer(self.presented.other_is_own));
        println!();
    }

    /// The same as one line of JSON.
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
