"""Training of the networks. The files, in reading order:

settings            settings of a run, its ranges and the flags' help
*_command           a subcommand each: train, train-segmenter, evaluate, styles, import, ...
trainer             the training loop, from settings to checkpoints
assembly            networks and contract from the settings and earlier runs
networks/           generators, discriminators, feature encoder, served graph
objective           networks and losses in one forward pass
losses              GAN, feature matching, segmenting and L1 loss, image pool
perceptual          the perceptual loss of a VGG, with each file's own preprocessing
train_step          one optimiser step, and its state
schedule            learning rate and trained weights, by the step
data/               data sets by layout (layouts.py), reading, geometry
data_check          a data set read once, and what is wrong with it
batches             samples to batches, in loading processes
validation          pictures and colour error during training
run_folder          a run on disk, to resume from
run_log             log.jsonl and TensorBoard
progress_bar        the bar of long commands
process             device, rank, random states, stop signals
checkpoint          the bundle on disk
published           import of pix2pixHD's own weights; published_styles: encoder and clusters
pretrained          published weights fetched by pip, their hashes and licences
torch_synthesizer   a checkpoint as a Synthesizer
styles              styles of photographs, and their clusters
evaluation/         segmenters, scores, FID and KID, report
"""
