"""Small networks with the shapes of public tutorials."""

import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """A network whose `forward` is given as a function of itself and the input."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.run(self, x)


def conv(n_in, n_out, size=3, stride=1, **options):
    options = {"padding": size // 2, "bias": False} | options
    layers = [nn.Conv2d(n_in, n_out, size, stride, **options), nn.BatchNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*layers)


def mlp():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(36, 20), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(20, 5)
    )


def mnist_example():
    def run(net, x):
        x = F.relu(net.conv1(x))
        x = F.relu(F.max_pool2d(net.conv2(x), 2))
        x = net.drop(torch.flatten(x, 1))
        return F.log_softmax(net.fc2(F.relu(net.fc1(x))), dim=1)

    return Net(
        run, conv1=nn.Conv2d(1, 3, 3), conv2=nn.Conv2d(3, 4, 3), drop=nn.Dropout(0.5),
        fc1=nn.Linear(16, 8), fc2=nn.Linear(8, 5),
    )  # fmt: skip


def lenet():
    def run(net, x):
        x = net.pool(F.relu(net.conv1(x)))
        x = net.pool(F.relu(net.conv2(x)))
        x = x.view(-1, 4 * 2 * 2)
        return net.fc2(F.relu(net.fc1(x)))

    return Net(
        run, conv1=nn.Conv2d(1, 3, 3, padding=1), conv2=nn.Conv2d(3, 4, 3, padding="same"),
        pool=nn.MaxPool2d(2, 2), fc1=nn.Linear(16, 9), fc2=nn.Linear(9, 5),
    )  # fmt: skip


def vgg():
    features = nn.Sequential(conv(2, 4), conv(4, 4), nn.MaxPool2d(2), conv(4, 6), nn.AvgPool2d(2))
    head = nn.Sequential(nn.Linear(24, 8), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 3))

    def run(net, x):
        x = net.features(x)
        return net.head(x.view(x.size(0), -1))

    return Net(run, features=features, head=head)


def alexnet():
    features = nn.Sequential(
        nn.Conv2d(3, 4, 5, 2, 2), nn.ReLU(True), nn.MaxPool2d(3, 2),
        nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(True), nn.AdaptiveAvgPool2d((2, 1)),
    )  # fmt: skip
    return nn.Sequential(features, nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))


def basic_block(n_in, n_out, stride):
    def run(net, x):
        shortcut = x if stride == 1 else net.down(x)
        out = F.relu(net.bn1(net.conv1(x)))
        out = net.bn2(net.conv2(out))
        out += shortcut
        return F.relu(out, inplace=True)

    down = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
    return Net(
        run, conv1=nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), bn1=nn.BatchNorm2d(n_out),
        conv2=nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), bn2=nn.BatchNorm2d(n_out),
        **({} if stride == 1 else {"down": down}),
    )  # fmt: skip


def resnet():
    def run(net, x):
        x = net.blocks(net.stem(x))
        return net.fc(net.pool(x).flatten(1))

    blocks = nn.Sequential(basic_block(4, 4, 1), basic_block(4, 6, 2))
    return Net(
        run, stem=conv(3, 4), blocks=blocks, pool=nn.AdaptiveAvgPool2d(1), fc=nn.Linear(6, 3)
    )


def rectified_residual():
    """A ReLU before each addition: a sum of spikes."""

    def run(net, x):
        x = net.first(x)
        x = x + net.second(x)
        return net.fc((x + net.third(x)).mean((2, 3)))

    return Net(run, first=conv(2, 4), second=conv(4, 4), third=conv(4, 4), fc=nn.Linear(4, 3))


def densenet():
    def run(net, x):
        features = [net.first(x)]
        for layer in (net.second, net.third):
            features.append(layer(torch.cat(features, 1)))
        return net.fc(net.pool(torch.cat(features, 1)).flatten(1))

    return Net(
        run, first=conv(2, 3), second=conv(3, 2), third=conv(5, 2), pool=nn.AvgPool2d(6),
        fc=nn.Linear(7, 3),
    )  # fmt: skip


def squeezenet():
    def run(net, x):
        x = F.relu(net.squeeze(net.first(x)))
        x = torch.cat([F.relu(net.narrow(x)), F.relu(net.wide(x))], dim=1)
        return net.head(F.max_pool2d(x, 2)).mean([2, 3])

    return Net(
        run, first=conv(2, 4), squeeze=nn.Conv2d(4, 2, 1), narrow=nn.Conv2d(2, 3, 1),
        wide=nn.Conv2d(2, 3, 3, padding=1), head=nn.Conv2d(6, 3, 1),
    )  # fmt: skip


def inception():
    def run(net, x):
        x = net.stem(x)
        branches = [net.one(x), net.three(x), net.pooled(x)]
        x = torch.cat(branches, 1)
        return net.fc(F.adaptive_avg_pool2d(x, (1, 1)).view(x.shape[0], -1))

    pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(4, 2, 1))
    return Net(
        run, stem=conv(2, 4), one=conv(4, 2, 1), three=nn.Sequential(conv(4, 3, 1), conv(3, 3)),
        pooled=pooled, fc=nn.Linear(7, 3),
    )  # fmt: skip


def mobilenet():
    depthwise = nn.Sequential(
        *(nn.Conv2d(4, 4, 3, 2, 1, groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU6()),
        *(nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6), nn.Hardtanh(0, 4)),
    )
    return nn.Sequential(
        conv(2, 4), depthwise, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )


def autoencoder():
    encoder = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 6), nn.ReLU())
    decoder = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 12), nn.Sigmoid())
    return Net(lambda net, x: net.decoder(net.encoder(x)), encoder=encoder, decoder=decoder)


def convolutional_autoencoder():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 6), nn.ReLU(),
        nn.Linear(6, 36), nn.ReLU(), nn.Unflatten(1, (4, 3, 3)),
        nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1), nn.ReLU(), nn.Conv2d(3, 1, 1),
        nn.Sigmoid(),
    )  # fmt: skip


def unet():
    def run(net, x):
        first = net.down1(x)
        second = net.down2(F.max_pool2d(first, 2))
        up = F.relu(net.up(second))
        return net.out(net.merge(torch.cat([up, first], dim=1)))

    return Net(
        run, down1=conv(2, 3), down2=conv(3, 4), up=nn.ConvTranspose2d(4, 3, 2, 2),
        merge=conv(6, 3), out=nn.Conv2d(3, 1, 1),
    )  # fmt: skip


def upsampling_unet():
    def run(net, x):
        first = net.down1(x)
        up = F.interpolate(net.down2(net.pool(first)), scale_factor=2)
        return net.out(net.merge(torch.cat([first, up], dim=1)))

    return Net(
        run, down1=conv(2, 3), pool=nn.MaxPool2d(2), down2=conv(3, 4), merge=conv(7, 3),
        out=nn.Conv2d(3, 1, 1),
    )  # fmt: skip


def regression():
    return nn.Sequential(
        nn.Conv1d(1, 4, 5, padding=2), nn.ReLU(), nn.Conv1d(4, 4, 3, padding=2, dilation=2),
        nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 1, 1),
    )  # fmt: skip


def denoiser():
    """A network that adds its correction to its input."""

    def run(net, x):
        h = x.unsqueeze(1)
        return (h + net.body(h)).squeeze(1)

    return Net(run, body=regression())


def tcn():
    """Causal convolutions: padding of all sides, cut off behind; a shortcut with another width."""

    def run(net, x):
        out = F.relu(net.conv1(x)[:, :, :-2])
        out = F.relu(net.conv2(F.pad(out, (4, 0))))
        x = F.relu(out + net.down(x))
        return net.fc(x[:, :, -1])

    return Net(
        run, conv1=nn.Conv1d(2, 4, 3, padding=2), conv2=nn.Conv1d(4, 4, 3, dilation=2),
        down=nn.Conv1d(2, 4, 1), fc=nn.Linear(4, 2),
    )  # fmt: skip


def residual_mlp():
    def run(net, x):
        x = net.act(net.first(x))
        x = net.act(net.second(x) + x)
        return net.last(x).squeeze(-1)

    return Net(
        run, first=nn.Linear(6, 8), second=nn.Linear(8, 8), last=nn.Linear(8, 1), act=nn.ReLU()
    )


def over_time():
    """Linear layers at each frame, with a sum of two layers and a shortcut."""

    def run(net, x):
        x = F.relu(net.first(x))
        return net.last(F.relu(net.third(F.relu(net.second(x))) + x))

    sizes = {"first": (6, 8), "second": (8, 8), "third": (8, 8), "last": (8, 2)}
    return Net(run, **{name: nn.Linear(*size) for name, size in sizes.items()})


def shufflenet():
    def run(net, x):
        left, right = net.first(x).chunk(2, dim=1)
        x = net.shuffle(torch.cat((left, net.branch(right)), dim=1))
        return net.fc(x.mean(dim=(2, 3)))

    return Net(
        run, first=conv(2, 4), branch=conv(2, 2, groups=2), shuffle=nn.ChannelShuffle(2),
        fc=nn.Linear(4, 3),
    )  # fmt: skip


def pre_activation():
    def run(net, x):
        x = net.stem(x)
        x = x + net.conv(F.relu(net.bn(x)))
        return net.fc(F.relu(x).mean((2, 3)))

    return Net(
        run, stem=nn.Conv2d(2, 4, 3, padding=1), bn=nn.BatchNorm2d(4),
        conv=nn.Conv2d(4, 4, 3, padding=1), fc=nn.Linear(4, 3),
    )  # fmt: skip


IMAGE = (2, 6, 6)
TAKEN = {
    "MLP": (mlp, (1, 6, 6)),
    "MNIST example": (mnist_example, (1, 8, 8)),
    "LeNet": (lenet, (1, 8, 8)),
    "VGG": (vgg, (2, 8, 8)),
    "AlexNet": (alexnet, (3, 20, 12)),
    "ResNet": (resnet, (3, 6, 6)),
    "residual sums of spikes": (rectified_residual, IMAGE),
    "DenseNet": (densenet, IMAGE),
    "SqueezeNet": (squeezenet, IMAGE),
    "Inception": (inception, IMAGE),
    "MobileNet": (mobilenet, IMAGE),
    "autoencoder": (autoencoder, (12,)),
    "convolutional autoencoder": (convolutional_autoencoder, (1, 6, 6)),
    "U-Net": (unet, IMAGE),
    "U-Net with upsampling": (upsampling_unet, IMAGE),
    "1-D regression": (regression, (1, 20)),
    "denoiser": (denoiser, (20,)),
    "TCN": (tcn, (2, 12)),
    "residual MLP": (residual_mlp, (6,)),
    "Linear layers over time": (over_time, (5, 6)),
    "ShuffleNet": (shufflenet, IMAGE),
    "pre-activation ResNet": (pre_activation, IMAGE),
}
"""Networks that convert, and the shapes of their inputs."""
