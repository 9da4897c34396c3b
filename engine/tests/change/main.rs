//! Change admission against Automerge itself: everything that honest clients write passes, and what
//! passes does not break Automerge.

mod context;
mod generate;
mod honest;
mod hostile;
mod image;
mod mutate;
mod mutation;
