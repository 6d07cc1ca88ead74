"""One job by many processes: who is there, who does which rows, and one output of all."""
