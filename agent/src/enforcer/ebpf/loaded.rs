//! The programs with their maps, or the reason why there are none yet.
//!
//! Owns the second try: the kernel may accept maps later if it lacked memory or its security module forbade them. It attaches nothing.

use postern_core::{table::Table, verdict::Hook};

use aya::programs::ProgramFd;

use super::{
    marks::Marks,
    pin_store::Pins,
    programs::{Programs, Sizes},
};
use crate::enforcer::EnforcerError;

pub type Loader = fn(Sizes, &Table, Option<&Marks>) -> Result<Programs, EnforcerError>;

/// The programs, once the kernel accepts them.
pub struct Loaded {
    programs: Result<Programs, EnforcerError>,
    /// The maps that outlive every run, or in words why there are none.
    marks: Result<Marks, String>,
    load: Loader,
    sizes: Sizes,
    /// The first contents of the maps. Without maps every edit fails, so this stays equal to the engine's installed table.
    table: Table,
}

impl Loaded {
    /// Loads the programs, or keeps the reason of the failure. `pins` has the maps that outlive every run.
    pub fn load(sizes: Sizes, table: &Table, load: Loader, pins: &Pins) -> Self {
        let marks = Marks::find_or_make(pins).map_err(|error| error.to_string());
        let programs = load(sizes, table, marks.as_ref().ok());
        if let Err(error) = &programs {
            tracing::error!(%error, "no kernel program could be loaded; posternd tries again");
        }
        Self { programs, marks, load, sizes, table: table.clone() }
    }

    pub fn marks(&self) -> Option<&Marks> {
        self.marks.as_ref().ok()
    }

    /// Why [`Self::marks`] is `None`. Empty if it is not.
    pub fn without_marks(&self) -> &str {
        self.marks.as_ref().err().map_or("", |why| why)
    }

    /// The programs, or the reason why there are none.
    pub fn get(&self) -> Result<&Programs, EnforcerError> {
        self.programs.as_ref().map_err(again)
    }

    pub fn get_mut(&mut self) -> Result<&mut Programs, EnforcerError> {
        self.programs.as_mut().map_err(|error| again(error))
    }

    /// Loads everything again that the kernel refused.
    pub fn load_again(&mut self) {
        match &mut self.programs {
            Ok(programs) => programs.load_again(),
            Err(_) => self.programs = (self.load)(self.sizes, &self.table, self.marks.as_ref().ok()),
        }
    }

    pub fn fd(&self, hook: Hook) -> Result<&ProgramFd, EnforcerError> {
        self.get()?.fd(hook)
    }

    pub fn id(&self, hook: Hook) -> Option<u32> {
        self.get().ok()?.id(hook)
    }

    pub fn tags(&self) -> Vec<String> {
        self.get().map(Programs::tags).unwrap_or_default()
    }
}

fn again(error: &EnforcerError) -> EnforcerError {
    match error {
        EnforcerError::Kernel { what, cause, advice } => {
            EnforcerError::Kernel { what: what.clone(), cause: cause.clone(), advice }
        }
        other => EnforcerError::Kernel {
            what: "load the kernel programs".to_owned(),
            cause: other.to_string(),
            advice: "posternd tries again every ten seconds",
        },
    }
}
