"""What the library does on a GPU: equal to the CPU, how much slower than the bare network, how near to the card's peak.

    PYTHONPATH=src python3 -m benchmarks.gpu --out FOLDER [--seconds 420] [--sections machine step ...] [--small]

One command for a bare GPU machine, of at most eight minutes. It needs torch 2.11 or newer, numpy, safetensors and this
repository; what trains (`tests`, `step`, `training`) also needs pillow and rich, which `sfumato.data` and the loop's
progress bar import, and the sections that fail for want of them say so and lose nothing else. `--small` runs all of it on
the CPU in tiny sizes, to try the script itself; its figures mean nothing.

FOLDER gets `gpu.json` (written after every measurement, so that a killed run keeps what it has), `sheet.png`, `table.txt`,
`log.txt`, and the output of the two sections in which nothing is timed, equality and tests: they run side by side in processes
of their own, so that a fault that spoils the device spoils nothing else. Each section has a time limit; whatever raises is
kept as a traceback under `error` at its place.

How it is timed: by the host's clock between two synchronisations of the device, after a warm-up; what is compared is taken
in turn in one process; given are the median, the quartiles and the number of repeats, in seconds.

machine    Measured ceilings: TFLOP/s of an 8192^3 bf16 matrix product of random numbers (2 n^3 operations), GB/s of a
           device-to-device copy counting bytes read and written.
equality   The device against the CPU: ||a - b|| / ||b||. Coefficients of schedules and solvers (`exact`: the same bits,
           where a walk's single times are worked out on the CPU; `apart`: largest relative difference where each row has
           a time of its own on the device), answers and gradients of networks in fp32 without TF32 and in bf16, walks
           of all solvers from the same noise, and each process once: loss, gradient, a walk of a few steps with the same
           random numbers, and one with numbers drawn on the device. Of tokens the share that differs.
tests      `pytest tests/gpu` in a process of its own.
overhead   Seconds of `sample` over the seconds of as many bare calls of the same network (in bf16): `ratio`. `syncs`: where
           a walk and a training step wait for the device, by file and line, as torch.cuda.set_sync_debug_mode sees it.
streams    Seconds to draw a batch row by row (`Streams`) on the CPU and on the device, beside torch.randn with one generator.
step       Images per second of a training step of a DiT-B/2-sized network on (4, 32, 32) in bf16: `loop` is the loop's step
           from its own pieces (objective, clipping, the wait for finiteness, AdamW, two averages) with the batch on the
           device; `loop, drawn` adds what the loop does before: reading items, streams, moving them; `plain` is forward,
           mse_loss on the velocity, backward, fused AdamW; `plain, average` adds one average by torch._foreach_lerp_.
           TFLOP/s count 3 x the forward pass of `sfumato.networks.flops` (matrix products, convolutions, attention; two
           operations a multiply-add; nothing recomputed), `of_peak` is their share of the product measured in `machine`,
           `of_datasheet` of 989 (H100, dense). The same with torch.compile and with CUDA graphs; for sampling the
           forward pass of a small batch and a whole walk as one graph.
training   A network learns coloured shapes drawn by the script, through `training.loop.train`; then samples with the
           averaged weights, 20 steps. `sheet.png`: left 64 samples, right 64 real pictures. Kernel distance of samples to
           held-out pictures on texture features (`Patches`), beside the same of as many training pictures (`floor`).
"""
