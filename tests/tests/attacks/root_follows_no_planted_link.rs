//! A command of root follows nothing that the agent's user can plant.
