"""Scripts for SLURM, to be changed where they stand in capitals or after a comment; `sfumato doctor --slurm` prints them."""

from __future__ import annotations

TRAIN = """\
#!/bin/bash
#SBATCH --job-name=sfumato
#SBATCH --nodes=2                     # machines
#SBATCH --ntasks-per-node=1           # one launcher a machine, which starts a process for each GPU
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180             # before the time is over: the step is finished and saved
#SBATCH --requeue                     # a machine that is taken away: the job stands in line again, and goes on
#SBATCH --open-mode=append

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" --max-restarts 3 \\
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$head:29500" \\
    -m sfumato train ./photos --steps 100000 --batch 1024 --out runs/photos   # on a disk that all machines see
status=$?
# the same command goes on from the newest checkpoint; one that has failed for other reasons stops after five times
if [ "$status" -ne 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 5 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""

SAMPLE = """\
#!/bin/bash
#SBATCH --job-name=sfumato-sample
#SBATCH --array=0-63                  # as many shares; %8 after it lets eight run at a time
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8             # with GPUs: --gpus-per-task=1 besides, and --workers 1
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@60              # before the time is over: the batch is finished and kept
#SBATCH --requeue
#SBATCH --open-mode=append

# the same bits for any number of shares and workers; begin all of it again for what is not there
srun sfumato sample runs/photos -n 1000000 --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \\
    --workers "${SLURM_CPUS_PER_TASK:-1}" --out million   # on a disk that all machines see
"""

SLURM = {"train": TRAIN, "sample": SAMPLE}
"""By what is to be done."""
